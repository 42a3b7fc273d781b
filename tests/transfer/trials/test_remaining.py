"""What is left of an experiment: by the mean of what finished stages alike took."""

from __future__ import annotations

from pathlib import Path

from pretrain.runtime.result import RunResult
from transfer.trials.remaining import remaining
from transfer.trials.stages import Stage


def stage(folder: Path, seconds: float | None = None, outputs: tuple[str, ...] = ("result.json",), kind="trials"):
    if seconds is not None:
        RunResult("train", "torchvision", 1, "d", seconds=seconds).save(folder)
    return Stage(folder.name, folder, ("true",), {}, outputs, kind)


def test_the_rest_takes_the_mean_of_what_is_done_of_its_column(tmp_path: Path) -> None:
    fast, slow = tmp_path / "rows" / "c4" / "torchvision", tmp_path / "rows" / "fpn" / "torchvision"
    done = [stage(fast / "a" / "seed_1", 60), stage(fast / "b" / "seed_1", 120), stage(slow / "a" / "seed_1", 7200)]
    assert str(remaining(done)) == "nothing is left"
    left = [stage(fast / "a" / "seed_2"), stage(fast / "b" / "seed_2"), stage(slow / "a" / "seed_2")]
    found = remaining([*done, *left])
    assert (found.stages, found.seconds, found.unknown) == (3, 90 + 90 + 7200, 0)
    assert str(found) == "3 stages left, about 2 h 03 min one after the other by what finished ones took"
    convert = stage(tmp_path / "converted" / "m", outputs=("trunk.pkl",), kind="convert")
    other = stage(tmp_path / "pretrain" / "m", outputs=("checkpoint_last.pth.tar", "result.json"), kind="pretrain")
    found = remaining([*done, left[0], convert, other])
    assert (found.stages, found.seconds, found.unknown) == (3, 90, 1)
    assert str(found).endswith("by what finished ones took, and 1 of which none alike has finished")


def test_without_a_finished_one_nothing_is_guessed(tmp_path: Path) -> None:
    one = stage(tmp_path / "rows" / "x" / "torchvision" / "a" / "seed_1")
    assert str(remaining([one])) == "1 stage left; none alike has finished, by which to say how long that takes"
    (tmp_path / "rows" / "x" / "torchvision" / "b" / "seed_1").mkdir(parents=True)
    broken = stage(tmp_path / "rows" / "x" / "torchvision" / "b" / "seed_1")
    (broken.folder / "result.json").write_text("{")
    assert remaining([one, broken]).unknown == 1
    quick = stage(tmp_path / "converted" / "m", outputs=("trunk.pkl",))
    assert str(remaining([one, quick])).startswith("2 stages left; none alike has finished")
    assert str(remaining([quick])) == "1 stage left; no training"


def test_what_is_stale_is_left_and_tells_how_long_its_like_takes(tmp_path: Path) -> None:
    row = tmp_path / "rows" / "x" / "torchvision" / "a"
    stages = [stage(row / "seed_1", 60), stage(row / "seed_2", 120)]
    found = remaining(stages, {stages[1].folder})
    assert (found.stages, found.seconds, found.known) == (1, 90, 1)
