"""What a killed process left half-written goes, in one folder; what a living one writes stays, wherever it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime import leftovers
from pretrain.runtime.alone import alone_in
from pretrain.runtime.checkpoint import atomic_write
from tests.conftest import ROOT

WRITING = """
import os, sys
from pathlib import Path
from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.leftovers import staging
with atomic_write(Path(sys.argv[1]) / "model.pth") as f, staging(Path(sys.argv[1]) / "trunk.pkl") as folder:
    (folder / "trunk.pkl").write_bytes(b"half")
    worker = os.fork()  # as a loader's process, which outlives the one that was killed
    print(worker, flush=True) if worker else None
    sys.stdin.read()
"""


def temporaries(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[1] for path in folder.iterdir() if path.name.startswith("."))


def test_what_a_living_process_writes_stays_and_goes_once_it_is_killed(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WRITING, str(tmp_path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            leftovers.remove(tmp_path)
            assert temporaries(tmp_path) == ["model", "staged"]
            process.kill()
            process.wait()
            os.kill(worker, 0)  # it lives
            leftovers.remove(tmp_path)
            assert temporaries(tmp_path) == []
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_run_removes_its_own_in_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "seed_1" / "features").mkdir(parents=True)
    own, below = tmp_path / ".model_0000003.pth.ab_1cd2e.tmp", tmp_path / "seed_1" / ".x.pth.ab_1cd2e.tmp"
    others = [tmp_path / name for name in (".notes.tmp", ".secret", "a.tmp", ".staged.not-ours")]
    for path in (own, below, *others):
        path.write_text("half")
    (tmp_path / ".staged.ab_1cd2e").mkdir()
    (tmp_path / ".staged.ab_1cd2e" / "trunk.pkl").write_text("half")
    with alone_in(tmp_path):
        assert not own.exists() and not (tmp_path / ".staged.ab_1cd2e").exists()
    assert below.exists() and all(path.exists() for path in others)


def test_whoever_writes_in_a_folder_removes_what_was_left_there(tmp_path: Path) -> None:
    (tmp_path / ".report.html.ab_1cd2e.tmp").write_text("half")
    with atomic_write(tmp_path / "trials.json", "w") as f:
        f.write("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["trials.json"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".staged.ab_1cd2e").symlink_to(tmp_path / "elsewhere")
    leftovers.remove(tmp_path / "run")
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_where_nothing_can_be_locked_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / ".a.pth.ab_1cd2e.tmp").write_text("half")
    leftovers.remove(tmp_path)
    with atomic_write(tmp_path / "b.pth") as f:
        f.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.pth.ab_1cd2e.tmp", "b.pth"]
