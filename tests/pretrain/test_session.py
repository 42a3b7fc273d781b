"""What surrounds a run: the device, and what may be continued."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.probes.config import get_lincls_cfg
from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import FILE_NAME, RunResult
from pretrain.session import finished, prepare, resume_point, session


def test_session_lends_a_device() -> None:
    with session("cpu") as device:
        assert device == torch.device("cpu") and not dist.is_initialized()
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="DEVICE is 'cuda', but torch sees no CUDA"), session("cuda"):
            pass


def test_resume_point(tmp_path: Path) -> None:
    last = tmp_path / "last.pth"
    assert resume_point(last, "no") is None and resume_point(last, "auto") is None
    with pytest.raises(ConfigError, match="nothing to resume: .* leave --resume out, or use --resume auto"):
        resume_point(last, "yes")
    last.write_text("")
    assert resume_point(last, "yes") == resume_point(last, "auto") == last
    with pytest.raises(ConfigError, match="exists; continue it with --resume, or choose another OUTPUT_DIR"):
        resume_point(last, "no")
    with pytest.raises(ValueError, match="resume is True; it must be one of"):
        resume_point(last, True)  # type: ignore[arg-type]


def test_finished_is_this_very_run(tmp_path: Path) -> None:
    assert finished(tmp_path, kind="linear") is None
    RunResult("linear", "pretrain", 3, "abc").save(tmp_path)
    assert finished(tmp_path, kind="linear", seed=3) == RunResult.load(tmp_path)
    assert finished(tmp_path, kind="linear", seed=4) is None
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(ConfigError, match="is not a result of this version"):
        finished(tmp_path, kind="linear")


def test_prepare_leaves_a_clean_folder(tmp_path: Path) -> None:
    cfg = get_lincls_cfg()
    cfg.TENSORBOARD = False
    for name in (FILE_NAME, "kept.txt"):
        (tmp_path / name).write_text("")
    prepare(tmp_path, cfg, 0).close()
    assert {path.name for path in tmp_path.rglob("*")} == {"kept.txt", "config.yaml", "metrics.jsonl"}
    with pytest.raises(ConfigError, match="OUTPUT_DIR '.*kept.txt/run' cannot be written"):
        prepare(tmp_path / "kept.txt" / "run", cfg, 0)
