"""Intervals, tests and verdicts against scipy on the raw numbers, and where there is nothing to test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from transfer.evaluation.metric import Rule
from transfer.evaluation.protocols import PROTOCOLS
from transfer.trials.aggregate import statistic
from transfer.trials.significance import interval, judge, welch

STDS = {name: PROTOCOLS["voc07"].metric(name).rule.std for name in ("AP50", "AP", "AP75")}
COCO = PROTOCOLS["coco"].metric("AP").rule
A = [81.3, 81.6, 81.5, 81.9, 81.4]
B = [81.0, 81.2, 80.6, 81.1]


def test_interval_is_students():
    low, high = interval(statistic(A))
    sem = stats.sem(A)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, np.mean(A), sem))
    assert high - np.mean(A) == pytest.approx(2.776445 * sem, rel=1e-6)  # the table's value for 4 degrees of freedom
    assert interval(statistic([81.0])) is None and interval(statistic([81.0, 81.0])) == (81.0, 81.0)


def test_welch_is_scipys_on_the_raw_values():
    found, expected = welch(statistic(A), statistic(B)), stats.ttest_ind(A, B, equal_var=False)
    bounds = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))
    assert found.difference == pytest.approx(np.mean(A) - np.mean(B))
    assert "different" in found.words and f"p = {expected.pvalue:.3f}" in found.words


def test_hedges_g_by_hand():
    """(mean - mean) / pooled std, times 1 - 3 / (4 (n + m) - 9)."""
    pooled = math.sqrt((4 * np.var(A, ddof=1) + 3 * np.var(B, ddof=1)) / 7)
    g = (np.mean(A) - np.mean(B)) / pooled * (1 - 3 / (4 * 9 - 9))
    assert welch(statistic(A), statistic(B)).effect == pytest.approx(g)


def test_one_trial_is_not_tested():
    assert welch(statistic([81.0]), statistic(A)) is None and welch(statistic(A), statistic([81.0])) is None
    verdict = judge(statistic([60.0]), 81.5, Rule(std=0.2))
    assert verdict.status == "open" and verdict.words == "one trial: no verdict"


def test_equal_values():
    same = welch(statistic([81.0, 81.0]), statistic([80.0, 80.0, 80.0]))
    assert same.p is None and same.effect is None and same.difference == 1.0 and "no spread" in same.words
    one_sided = welch(statistic([81.0, 81.0]), statistic([80.0, 80.5, 80.2]))
    other = [80.0, 80.5, 80.2]
    expected = stats.ttest_ind_from_stats(81.0, 0, 2, np.mean(other), np.std(other, ddof=1), 3, equal_var=False).pvalue
    assert one_sided.p == pytest.approx(expected) and expected < 0.05
    twice = welch(statistic(A), statistic(A))
    assert twice.p == 1.0 and twice.effect == 0.0 and "no difference" in twice.words


@pytest.mark.parametrize("name", STDS)
@pytest.mark.parametrize("gap", [-0.8, -0.1, 0.0, 0.2, 1.5])
def test_verdicts_are_welchs_against_five_trials_of_the_expected_std(name, gap):
    ours, std = statistic(A), STDS[name]
    published = ours.mean - gap
    p = stats.ttest_ind_from_stats(np.mean(A), np.std(A, ddof=1), 5, published, std, 5, equal_var=False).pvalue
    found = judge(ours, published, Rule(std=std))
    assert found.p == pytest.approx(p)
    if p >= 0.05:
        assert found.status == "within" and found.words == "within noise of the paper" and not found.outside
    else:
        side = "above" if gap > 0 else "below"
        assert found.status == side and found.words == f"{side} by {abs(gap):.1f} (outside)" and found.outside


def test_verdict_of_trials_without_spread():
    """All equal: the published spread is all there is."""
    p = stats.ttest_ind_from_stats(81.0, 0.0, 3, 81.1, 0.2, 5, equal_var=False).pvalue
    found = judge(statistic([81.0] * 3), 81.1, Rule(std=0.2))
    assert found.p == pytest.approx(p) and found.status == "within"


def test_coco():
    """The published number is of one run, and so may ours be."""
    assert judge(statistic([38.6, 39.0]), 38.5, COCO).status == "within"
    assert judge(statistic([38.8, 39.0]), 38.5, COCO).words == "above by 0.4 (outside)"
    assert judge(statistic([38.8]), 38.5, COCO).status == "within" and judge(statistic([38.1]), 38.5, COCO).outside


def test_false_alarms_are_as_rare_as_they_should_be():
    """2,000 right reproductions of a published mean: not more than 5% are called different."""
    rng = np.random.default_rng(0)
    ours, published = rng.normal(81.5, 0.2, (2000, 5)), rng.normal(81.5, 0.2, (2000, 5)).mean(1)
    alarms = sum(
        judge(statistic(o.tolist()), float(p), Rule(std=0.2)).outside for o, p in zip(ours, published, strict=True)
    )
    assert 0.01 < alarms / 2000 <= 0.05
