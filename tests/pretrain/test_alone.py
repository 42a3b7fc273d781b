"""Pre-training, linear probe and kNN: none starts where another run works, and what that one wrote stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain import run
from pretrain.probes import knn, lincls
from pretrain.probes.config import get_lincls_cfg
from pretrain.runtime import lock
from pretrain.runtime.config import merge_opts
from pretrain.runtime.lock import LockError, hold_run
from tests.pretrain.conftest import MakeCfg


@pytest.mark.parametrize("kind", ["pretrain", "linear", "knn"])
def test_refused(kind: str, images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    linear = get_lincls_cfg()
    merge_opts(linear, ["DATA.TRAIN", str(images), "DATA.VAL", str(images), "MODEL.WEIGHTS", "w.pth"])
    merge_opts(linear, ["OUTPUT_DIR", str(tmp_path)])
    with hold_run(tmp_path), pytest.raises(LockError, match=f"'{tmp_path}' is in use by process .* choose another"):
        if kind == "pretrain":
            run.main(make_cfg(images, tmp_path), resume="auto")
        elif kind == "linear":
            lincls.main(linear, resume="auto")
        else:
            knn.main("w.pth", images, images, tmp_path, device_name="cpu")
    assert list(tmp_path.iterdir()) == []
