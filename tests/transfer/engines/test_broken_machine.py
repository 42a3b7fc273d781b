"""Fine-tuning on a machine that fails it, on both engines: one sentence, a code of its own, and nothing lost."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.runtime import checkpoint, commands, lock
from pretrain.runtime.checkpoint import CheckpointError
from tests.architectures import options
from transfer.config.load import load_config
from transfer.engines import machines
from transfer.engines.base import Engine
from transfer.engines.select import select
from transfer.trials.failure import read_failure
from transfer.trials.run import run_trial, run_trials

ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)]
End = Callable[..., tuple[int, str]]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield select(request.param)
    for name in ("detectron2", "fvcore"):  # whose handlers write to this test's captured output
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def images(generated: Path, tmp_path: Path) -> Path:
    """A copy of the generated set, to be broken."""
    shutil.copytree(generated, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def end(engine: Engine, images: Path, small_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> End:
    """Exit code and last line of a command that fine-tunes in `tmp_path / "run"`."""

    def run(*opts: str) -> tuple[int, str]:
        words = [*options("R18-C4", images, tmp_path), "SOLVER.CHECKPOINT_PERIOD", "2", *opts]
        cfg = load_config(small_config, words, engine.defaults())
        code = commands.status(lambda: len(engine.train(cfg, resume="auto").metrics) * 0)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, said.strip().splitlines()[-1]

    return run


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """after(n, do) does something once so many steps are done."""

    def arrange(steps: int, do: Callable[[], object]) -> None:
        step, count = torch.optim.SGD.step, [0]

        def counted(*args: Any, **options: Any) -> Any:
            result = step(*args, **options)
            count[0] += 1
            if count[0] == steps:
                do()
            return result

        monkeypatch.setattr(torch.optim.SGD, "step", counted)

    return arrange


def iteration(folder: Path) -> int:
    return checkpoint.load(folder / (folder / "last_checkpoint").read_text())["iteration"]


def test_an_image_that_goes_leaves_what_was_done_before(engine, end, after, images, tmp_path):
    after(3, lambda: [path.unlink() for path in images.rglob("*.jpg")])
    code, line = end()
    assert code == 2 and line.startswith("error: ") and ".jpg" in line
    assert iteration(tmp_path / "run") == (3 if engine.name == "torchvision" else 2)  # Detectron2 counts from 0


def test_a_killed_loader_is_one_sentence(engine, end, monkeypatch):
    from PIL import Image

    main, opened = os.getpid(), Image.open

    def dies(*args: Any, **options: Any) -> Any:
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return opened(*args, **options)

    monkeypatch.setattr(Image, "open", dies)
    code, line = end("DATALOADER.NUM_WORKERS", "1")
    assert code == 71 and "of a loader " in line and "take fewer workers" in line


def test_an_output_folder_that_goes_ends_the_run(end, after, tmp_path):
    after(3, lambda: shutil.rmtree(tmp_path / "run"))
    code, line = end()
    assert code == 74 and f"'{tmp_path / 'run'}' was removed or renamed while the run worked there" in line
    assert not list((tmp_path / "run").glob("*.pth")) and not (tmp_path / "run" / "result.json").exists()


def test_a_disk_that_takes_no_more_leaves_the_earlier_checkpoint(end, after, tmp_path, monkeypatch):
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    after(3, lambda: monkeypatch.setattr(os, "fsync", full))
    code, line = end()
    assert code == 74 and f"'{tmp_path / 'run'}" in line and "No space left on device" in line
    assert iteration(tmp_path / "run") in (1, 2) and not list((tmp_path / "run").glob(".*.tmp"))
    monkeypatch.undo()
    assert end()[0] == 0


def test_a_disk_that_is_full_at_the_evaluation(end, tmp_path, monkeypatch):
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "predictions" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, line = end()
    assert code == 74 and "predictions_generated_test.json': No space left on device; free space" in line
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_a_refused_trial_does_not_mark_the_living_one_as_failed(engine, images, small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    opts = options("R18-C4", images, tmp_path)
    with lock.hold_run(tmp_path / "row" / "seed_1"):
        for trial in (
            lambda: run_trial(engine, small_config, opts, tmp_path / "row", 1),
            lambda: run_trials(engine, small_config, opts, tmp_path / "row", [1, 2]),
        ):
            with pytest.raises(lock.LockError, match="seed_1' is in use by process"):
                trial()
        assert read_failure(tmp_path / "row" / "seed_1") is None and not (tmp_path / "row" / "seed_2").exists()


class Killed(torch.multiprocessing.ProcessExitedException):
    def __init__(self, signal_name: str | None):
        super().__init__("process 1 terminated", 1, 7, -9, signal_name)


def raised(error: str) -> torch.multiprocessing.ProcessRaisedException:
    return torch.multiprocessing.ProcessRaisedException(f"\n\n-- Process 1:\nTraceback ...\n{error}\n", 1, 7)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Killed("SIGKILL"), 71, "a process of 2 was ended by SIGKILL, by the system if memory ran out"),
        (Killed("SIGSEGV"), 2, "a process of 2 was ended by SIGSEGV"),
        (
            raised("torch.OutOfMemoryError: CUDA out of memory. Tried"),
            71,
            "out of memory: torch.OutOfMemoryError: CUDA",
        ),
        (
            raised(f"{CheckpointError.__module__}.CheckpointError: cannot write 'a' (No space left on device)"),
            74,
            "cann",
        ),
        (raised("OSError: [Errno 28] No space left on device: '/o/a'"), 74, "No space left on device: '/o/a'; free"),
        (raised("KeyError: 'a'"), 2, "a process of 2 failed:"),
    ],
)
def test_what_ended_one_of_several_processes(error, code, words, capsys):
    def run() -> int:
        with machines.spawning(2):
            raise error

    assert commands.status(run) == code and capsys.readouterr().err.startswith(f"error: {words}")
