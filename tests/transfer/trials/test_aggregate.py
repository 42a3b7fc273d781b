"""Means and spreads against the statistics module and by hand; what must not be averaged is refused."""

from __future__ import annotations

import json
import math

import pytest

from pretrain.runtime.result import RunResult
from transfer.trials.aggregate import Aggregate, AggregateError, aggregate, statistic

READ = {"config": "c", "weights": "w", "data set s_val": "a", "val": "a"}


def result(seed: int, ap: float, **changes) -> RunResult:
    fields = dict(kind="train", engine="torchvision", seed=seed, config_digest="c", weights_sha256="w")
    return RunResult(**{**fields, **changes}, metrics={"bbox/AP50": ap})


def test_the_references_five_trials():
    """MoCo v1, linear classification: 60.6 60.6 60.7 60.9 61.1 is reported as 60.8 +/- 0.2."""
    s = statistic([60.6, 60.6, 60.7, 60.9, 61.1])
    assert s.mean == pytest.approx(60.78) and s.std == pytest.approx(math.sqrt(0.188 / 4)) and str(s) == "60.8 ± 0.2"
    assert (s.n, s.low, s.high) == (5, 60.6, 61.1)


def test_one_trial_has_no_spread():
    s = statistic([50.0])
    assert s.std is None and str(s) == "50.0"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_statistic_of_nothing_or_of_failures(values):
    with pytest.raises(AggregateError):
        statistic(values)


def test_a_row():
    row = aggregate([result(1, 50.0), result(2, 52.0)])
    assert row.seeds == (1, 2) and row.metrics["bbox/AP50"].mean == 51.0 and row.engine == "torchvision"
    assert Aggregate.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "detectron2"}, "differ in engine"),
        ({"config_digest": "d"}, "differ in config_digest"),
        ({"weights_sha256": None}, "differ in weights_sha256"),
        ({"inputs": {"data set s_val": "b"}}, "differ in what they read as 'data set s_val' .digests a, b"),
        ({"inputs": {"val": "b"}}, "differ in what they read as 'val'"),
        ({"seed": 1}, "a seed comes twice"),
    ],
)
def test_what_differs_is_not_averaged(changes, message):
    with pytest.raises(AggregateError, match=message):
        aggregate([result(1, 50.0, inputs=READ), result(**{"seed": 2, "ap": 52.0, "inputs": READ, **changes})])


def test_results_of_earlier_versions_do_not_say_what_they_read_and_pre_trainings_anew_differ():
    others = [{}, {"weights": "v"}, {"config": "d"}]
    assert aggregate([result(1, 50.0, inputs=READ), *(result(i, 51.0, inputs=r) for i, r in enumerate(others, 2))])


def test_a_trial_that_lacks_a_metric_is_named():
    a, b = result(1, 50.0), result(2, 52.0)
    a.metrics["segm/AP"] = 30.0
    with pytest.raises(AggregateError, match="seed 2 lacks segm/AP, which others have"):
        aggregate([a, b])


def test_a_metric_that_is_nowhere_defined_is_left_out_and_one_that_is_partly_undefined_is_refused():
    a, b = result(1, 50.0), result(2, 52.0)
    a.metrics["bbox/APl"] = b.metrics["bbox/APl"] = math.nan
    assert set(aggregate([a, b]).metrics) == {"bbox/AP50"}
    b.metrics["bbox/APl"] = 3.0
    with pytest.raises(AggregateError, match="bbox/APl is not a number in every trial .nan, 3.; delete the folders"):
        aggregate([a, b])
