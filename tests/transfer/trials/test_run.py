"""Trials with an engine that only counts: what is skipped, what resumes, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.runtime.result import RunResult
from tests.transfer.data.sets import CAT, voc_image, voc_object, voc_split
from transfer.config.defaults import get_cfg
from transfer.engines import base, results
from transfer.trials.aggregate import AggregateError
from transfer.trials.failure import read_failure
from transfer.trials.run import AGGREGATE_FILE, TrialsFailed, run_trial, run_trials


class CountingEngine(base.Engine):
    name = "counting"

    def __init__(self):
        self.calls: list[tuple[int, str]] = []
        self.fail_at: int | None = None

    def defaults(self) -> CfgNode:
        return get_cfg()

    def train(self, cfg, resume="no", num_gpus=1) -> RunResult:
        self.calls.append((cfg.SEED, resume))
        if cfg.SEED == self.fail_at:
            raise base.EngineError("killed")
        return results.finish("counting", "train", cfg, {"bbox/AP": 10.0 + cfg.SEED}, [], 0.0, {}, {}, None, cfg.SEED)

    def evaluate(self, cfg, num_gpus=1) -> RunResult:
        raise AssertionError

    def predict(self, cfg, images):
        raise AssertionError

    def training_inputs(self, cfg, count):
        raise AssertionError


def test_each_seed_in_its_folder_and_a_second_call_runs_nothing(tmp_path, small_config):
    engine = CountingEngine()
    row = run_trials(engine, small_config, [], tmp_path, range(1, 4))
    assert engine.calls == [(1, "auto"), (2, "auto"), (3, "auto")]
    assert row.metrics["bbox/AP"].values == (11.0, 12.0, 13.0) and row.metrics["bbox/AP"].std == 1.0
    assert (tmp_path / AGGREGATE_FILE).is_file() and (tmp_path / "seed_2" / "result.json").is_file()
    assert run_trials(engine, small_config, [], tmp_path, range(1, 4)) == row and len(engine.calls) == 3


def test_a_failed_trial_does_not_stop_the_others_and_is_tried_again(tmp_path, small_config):
    engine = CountingEngine()
    engine.fail_at = 2
    with pytest.raises(TrialsFailed, match="2 of 3 trials finished, 1 failed, so there is no row .seed 2: killed"):
        run_trials(engine, small_config, [], tmp_path, range(1, 4))
    assert not (tmp_path / AGGREGATE_FILE).exists() and read_failure(tmp_path / "seed_2") == "killed"
    engine.fail_at = None
    run_trials(engine, small_config, [], tmp_path, range(1, 4))
    assert [seed for seed, _ in engine.calls] == [1, 2, 3, 2] and read_failure(tmp_path / "seed_2") is None


def test_one_trial_makes_no_row(tmp_path, small_config):
    engine = CountingEngine()
    assert run_trial(engine, small_config, [], tmp_path, 3).metrics == {"bbox/AP": 13.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_3"]
    run_trials(engine, small_config, [], tmp_path, [3, 4])
    assert [seed for seed, _ in engine.calls] == [3, 4]


def test_a_folder_of_another_config_is_refused(tmp_path, small_config):
    engine = CountingEngine()
    run_trials(engine, small_config, [], tmp_path, [1])
    with pytest.raises(AggregateError, match="holds the trial of something else .config digest"):
        run_trials(engine, small_config, ["SOLVER.BASE_LR", "0.5"], tmp_path, [1])
    Path(tmp_path / "w.pkl").write_bytes(b"weights")
    with pytest.raises(AggregateError, match="weights None instead of"):
        run_trials(engine, small_config, ["MODEL.WEIGHTS", str(tmp_path / "w.pkl")], tmp_path, [1])


def test_a_trial_of_annotations_that_have_changed_since_is_refused(tmp_path, small_config):
    """Corrected annotations make another test set; trials from before and after it are no row."""
    for split in ("train", "val"):
        voc_image(tmp_path, split, voc_object(CAT, (3, 4, 10, 12)))
        voc_split(tmp_path, split, split)
    spec = "name: s\nformat: voc\nyear: 2007\nroot: .\nclasses: [cat]\nsplits: [train, val]\n"
    (tmp_path / "s.yaml").write_text(spec)
    sets = ["DATASETS.SPECS", [str(tmp_path / "s.yaml")], "DATASETS.TRAIN", ["s_train"], "DATASETS.TEST", ["s_val"]]
    engine = CountingEngine()
    run_trials(engine, small_config, sets, tmp_path / "row", [1])
    run_trials(engine, small_config, sets, tmp_path / "row", [1, 2])
    assert len(engine.calls) == 2
    voc_image(tmp_path, "val", voc_object(CAT, (3, 4, 10, 13)))
    with pytest.raises(AggregateError, match=r"seed_1' holds .* something else \(data set s_val \w{16} instead"):
        run_trials(engine, small_config, sets, tmp_path / "row", [1, 2, 3])
    assert len(engine.calls) == 2


def test_what_fails_alike_is_said_once(tmp_path, small_config):
    engine = CountingEngine()
    engine.train = lambda cfg, **_: (_ for _ in ()).throw(base.EngineError("full" if cfg.SEED == 2 else "no GPU"))
    with pytest.raises(TrialsFailed, match=r"no row \(seeds 1, 3: no GPU; seed 2: full\); run again"):
        run_trials(engine, small_config, [], tmp_path, [1, 2, 3])


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_are_some_different_and_not_negative(tmp_path, small_config, seeds):
    with pytest.raises(AggregateError, match="give one trial or more, seeds different"):
        run_trials(CountingEngine(), small_config, [], tmp_path, seeds)
