"""Files of splits: those of one drawing, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.disks import fail_at
from transfer.data.split_files import write_splits

SHARES = {"train": 0.8, "val": 0.2}


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A json with the splits of an earlier call beside it."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(100)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    write_splits(tmp_path / "a.json", SHARES, 0, False)
    return tmp_path / "a.json"


def test_splits_of_two_drawings_never_lie_side_by_side(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in drawn.parent.iterdir()}
    with monkeypatch.context() as disk, pytest.raises(OSError, match="a_val.json"):
        fail_at(disk, "fsync", 2)
        write_splits(drawn, SHARES, 1, True)
    assert {path: path.read_bytes() for path in drawn.parent.iterdir()} == before
    with monkeypatch.context() as disk, pytest.raises(OSError, match="a_val.json"):
        fail_at(disk, "replace", 2)
        write_splits(drawn, SHARES, 1, True)
    assert sorted(path.name for path in drawn.parent.iterdir()) == ["a.json", "a_train.json"]
    files = write_splits(drawn, SHARES, 1, True)
    train, val = ({image["id"] for image in json.loads(file.read_text())["images"]} for file in files)
    assert train | val == set(range(100)) and not train & val
