"""Pre-training on a machine that fails it: one sentence, a code of its own, and what was computed is on disk."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode
from torch.utils.data._utils import signal_handling

from pretrain import loop
from pretrain.data.views import ViewDataset
from pretrain.run import main
from pretrain.runtime import checkpoint, commands
from pretrain.runtime.log import progress, read_metrics, setup_logging
from tests.pretrain.conftest import MakeCfg

LAST = "checkpoint_last.pth.tar"
Say = Callable[[CfgNode], tuple[int, str]]


@pytest.fixture
def end(capfd: pytest.CaptureFixture[str]) -> Say:
    """Exit code and last line of a command that pre-trains."""

    def run(cfg: CfgNode) -> tuple[int, str]:
        code = commands.status(lambda: len(main(cfg, resume="auto").metrics) * 0)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, said.strip().splitlines()[-1]

    return run


def after(iterations: int, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Does something once so many iterations are done."""
    step, count = loop.train_step, [0]

    def train_step(*args, **options):
        result = step(*args, **options)
        count[0] += 1
        if count[0] == iterations:
            do()
        return result

    monkeypatch.setattr(loop, "train_step", train_step)


def test_a_killed_loader_loses_nothing(
    images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Say
) -> None:
    """Also where an earlier loader of the process has set torch's handler, which raises wherever the process is."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    signal_handling._set_SIGCHLD_handler()
    assert signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL
    cfg = make_cfg(images, tmp_path / "run", "DATA.NUM_WORKERS", 1)
    read = ViewDataset.__getitem__

    def dies(self: ViewDataset, key: tuple[int, int]):
        if key[0] == 1:  # the second epoch: iterations from 10 on
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, key)

    monkeypatch.setattr(ViewDataset, "__getitem__", dies)
    code, line = end(cfg)
    assert code == 71 and "of a loader " in line and "take fewer workers" in line
    assert checkpoint.load(tmp_path / "run" / LAST)["iteration"] >= 8  # what was not yet handed over died with it
    monkeypatch.undo()
    assert end(cfg)[0] == 0


def test_an_image_that_goes_leaves_what_was_done_before(
    images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Say
) -> None:
    shutil.copytree(images, tmp_path / "images")
    cfg = make_cfg(tmp_path / "images", tmp_path / "run")
    after(3, monkeypatch, lambda: [path.unlink() for path in (tmp_path / "images").rglob("*.jpg")])
    code, line = end(cfg)
    assert code == 2 and line.startswith("error: ") and ".jpg" in line
    assert checkpoint.load(tmp_path / "run" / LAST)["iteration"] == 3


@pytest.mark.parametrize("how", ["removed", "renamed", "made anew"])
def test_an_output_folder_that_goes_ends_the_run(
    how: str, images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Say
) -> None:
    folder = tmp_path / "run"

    def go() -> None:
        if how == "renamed":
            folder.rename(tmp_path / "other")
            return
        shutil.rmtree(folder)
        if how == "made anew":
            folder.mkdir()

    after(13, monkeypatch, go)
    code, line = end(make_cfg(images, folder))
    assert code == 74 and f"'{folder}' was removed or renamed while the run worked there" in line
    assert not folder.exists() or not list(folder.iterdir())
    assert how != "renamed" or checkpoint.load(tmp_path / "other" / LAST)["iteration"] == 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_takes_no_more(
    number: int, where: str, images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Say
) -> None:
    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    after(12, monkeypatch, lambda: monkeypatch.setattr(os, where, fail))
    code, line = end(make_cfg(images, tmp_path / "run"))
    last = tmp_path / "run" / LAST
    assert code == 74
    assert line.startswith(f"error: cannot write checkpoint '{last}' ({os.strerror(number)}); the earlier '{last}' is")
    assert checkpoint.load(last)["iteration"] == 10 and not list(tmp_path.rglob("*.tmp"))


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    images: Path, make_cfg: MakeCfg, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    (file,) = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    whole, file.stream = file.stream, open("/dev/full", "w")
    main(make_cfg(images, tmp_path / "run"))
    file.stream = whole
    said = capfd.readouterr().err
    assert said.count("log.txt' cannot be written (No space left on device): lines are missing") == 1
    assert "Traceback" not in said and "Logging error" not in said


def test_metrics_that_cannot_be_written_name_their_file(
    images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Say
) -> None:
    real = open

    def full(path, mode="r", *args, **options):
        return real(
            "/dev/full" if str(path).endswith("metrics.jsonl") and mode == "a" else path, mode, *args, **options
        )

    monkeypatch.setattr("builtins.open", full)
    code, line = end(make_cfg(images, tmp_path / "run"))
    monkeypatch.undo()
    assert code == 74 and line.startswith(f"error: '{tmp_path / 'run' / 'metrics.jsonl'}': No space left on device; fr")


def test_a_clock_that_is_put_back_changes_no_duration_and_stops_no_bar(
    images: Path, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - 3600 * len(list(tmp_path.rglob("metrics.jsonl"))))
    result = main(make_cfg(images, tmp_path / "run"))
    assert 0 < result.seconds < 600 and result.metrics["images_per_second"] > 0
    assert all(line["images_per_second"] > 0 for line in read_metrics(tmp_path / "run" / "metrics.jsonl"))
    bar = progress(100, "detect")
    monkeypatch.setattr("tqdm.std.time", lambda: 0.0)
    bar.mininterval = 0.0
    bar.update(10)
    assert bar.last_print_n == 10 and bar.format_dict["elapsed"] >= 0
    bar.close()
