"""Metrics on disk, also after a kill."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from pretrain.runtime.log import MetricsWriter, progress, read_metrics, setup_logging


def test_a_resumed_writer_never_tells_an_iteration_twice(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for i in range(5):
            writer.write(i, loss=float(i))
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"iteration": 5, "lo')  # killed while writing
    assert [line["iteration"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(5))
    with MetricsWriter(tmp_path, start_iteration=3, tensorboard=False) as writer:
        writer.write(3, loss=30.0)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["iteration"], line["loss"]) for line in lines] == [(0, 0), (1, 1), (2, 2), (3, 30)]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_lines_are_on_disk_at_once_and_have_no_nan(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(0, loss=math.nan, acc1=1.0)
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"iteration": 0, "loss": None, "acc1": 1.0}]


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_gets_the_same_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsWriter(tmp_path) as writer:
        writer.write(7, loss=0.5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 0.5)]


def test_every_rank_has_a_log_file_and_only_the_first_speaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest's own come back afterwards
    monkeypatch.setattr(root, "level", root.level)
    try:
        for rank in (0, 1):
            setup_logging(tmp_path, rank)
            logging.getLogger("x").info("from %d", rank)
    finally:
        for handler in root.handlers:
            handler.close()
    assert "from 0" in (tmp_path / "log.txt").read_text()
    assert "from 1" in (tmp_path / "log.txt.rank1").read_text()
    assert "from 0" in (said := capsys.readouterr().err) and "from 1" not in said


def test_progress_starts_where_a_resumed_run_starts() -> None:
    with progress(total=10, desc="x", initial=4, disable=False) as bar:
        bar.update(2)
        assert bar.n == 6 and bar.total == 10
