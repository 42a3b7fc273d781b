"""Files are whole or absent, and a file that cannot be read says why."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.runtime import checkpoint
from pretrain.runtime.checkpoint import CheckpointError
from tests.disks import fail_at


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), checkpoint.atomic_write(path) as f:
        f.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), checkpoint.atomic_write(tmp_path / "new" / "a.bin"):
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


def test_files_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, no new one lies beside an old one, and nothing else is left."""
    a, b, c = (tmp_path / "below" / name for name in "abc")
    checkpoint.write_together({a: b"old a", b: b"old b"})
    old = {a: b"old a", b: b"old b"}
    for call, number, left in (("fsync", 3, old), ("replace", 1, {}), ("replace", 3, {a: b"new a", b: b"new b"})):
        checkpoint.write_together(old)
        with monkeypatch.context() as disk, pytest.raises(OSError) as error:
            fail_at(disk, call, number)
            checkpoint.write_together({a: b"new a", b: b"new b", c: b"new c"})
        assert {path: path.read_bytes() for path in a.parent.iterdir()} == left
        assert error.value.filename == str(a if number == 1 else c) and error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("signalled", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_saving_is_no_full_disk(signalled: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """torch's writer turns what is raised while it writes into an error about positions."""

    class Interrupted(io.FileIO):
        def write(self, data):
            raise signalled

    monkeypatch.setattr(checkpoint.os, "fdopen", lambda fd, mode: Interrupted(fd, mode))
    with pytest.raises(signalled):
        checkpoint.save({"a": torch.zeros(100000)}, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_unpicklable_object_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(Exception, match="pickle|local"):
        checkpoint.save({"a": lambda: None}, tmp_path / "a.pth")
    assert torch.equal(checkpoint.load(tmp_path / "a.pth")["a"], torch.ones(2))


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Inside, writing further fails, as on a full disk but for the reason (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("contents", [{"a": torch.ones(100000)}, {"a": [torch.ones(500) for _ in range(200)]}])
def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, contents: dict[str, object]) -> None:
    path = tmp_path / "a.pth"
    with files_end_at(20000), pytest.raises(CheckpointError) as caught:
        checkpoint.save(contents, path)
    assert str(caught.value).startswith(f"cannot write checkpoint '{path}' (File too large); free space or")
    assert not list(tmp_path.iterdir())
    checkpoint.save({"a": torch.ones(2)}, path)
    with files_end_at(20000), pytest.raises(CheckpointError, match=f"the earlier '{path}' is unchanged; free space"):
        checkpoint.save(contents, path)
    assert torch.equal(checkpoint.load(path)["a"], torch.ones(2)) and list(tmp_path.iterdir()) == [path]


def test_disk_that_fills_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.pth"
    checkpoint.save({"a": 1}, path)
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(CheckpointError, match=r"\(No space left on device\); the earlier .* is unchanged"):
        checkpoint.save({"a": 2}, path)
    with pytest.raises(OSError, match="No space left on device: '.*/a.json'") as caught:
        checkpoint.save_json({"a": 2}, tmp_path / "a.json")
    assert caught.value.errno == errno.ENOSPC
    assert checkpoint.load(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=f"cannot write checkpoint '{tmp_path}/file/a.pth'"):
        checkpoint.save({}, tmp_path / "file" / "a.pth")


def test_round_trip(tmp_path: Path) -> None:
    saved = {"tensor": torch.arange(3), "nested": {"list": [1, 2.5, None, "x"], "tuple": (1, (2, 3))}}
    checkpoint.save(saved, tmp_path / "deep" / "a.pth")
    loaded = checkpoint.load(tmp_path / "deep" / "a.pth")
    assert torch.equal(loaded["tensor"], saved["tensor"]) and loaded["nested"] == saved["nested"]


def test_missing_truncated_and_foreign_files_name_themselves(tmp_path: Path) -> None:
    checkpoint.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bent.pth").write_bytes(whole[:1000] + whole[2000:])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello")
    for name, message in {
        "missing.pth": "does not exist; check the path",
        "cut.pth": f"({len(whole) // 2} bytes)",
        "bent.pth": "it is truncated or damaged, copy it again",
        "empty.pth": "(0 bytes)",
        "text.pth": "no torch checkpoint",
    }.items():
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(tmp_path / name)
        assert message in str(caught.value) and str(tmp_path / name) in str(caught.value)


class Trap:
    """Runs code when unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code from a checkpoint was run')",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "r50.pkl").write_bytes(pickle.dumps({"model": {}}, protocol=4))
    for name, message in {
        "trap.pth": r"it asks for (\w+\.)?exec, which is not data; export its tensors alone",
        "trap.pkl": "it is no torch checkpoint",
        "r50.pkl": "it is no torch checkpoint; .* what a .pkl for Detectron2 was converted from",
    }.items():
        with pytest.raises(CheckpointError, match="cannot read checkpoint .*: " + message):
            checkpoint.load(tmp_path / name)


def test_json_is_sorted_and_readable(tmp_path: Path) -> None:
    checkpoint.save_json({"b": 1, "a": [1, 2]}, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1, 2], "b": 1} and text.index('"a"') < text.index('"b"') and text.endswith("\n")


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert checkpoint.sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    with open(tmp_path / "a", "rb") as f:
        assert checkpoint._sha256_chunks(f) == hashlib.sha256(data).hexdigest()
