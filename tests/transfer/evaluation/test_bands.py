"""When a difference from a published mean means something."""

from __future__ import annotations

import math

import pytest

from transfer.evaluation.bands import EXPECTED_STD, compare, compare_coco


def test_five_trials_against_five() -> None:
    """Noise: 2 * 0.2 * sqrt(1/5 + 1/5) = 0.253."""
    assert compare(5, 81.7, 0.1, 81.5, EXPECTED_STD["AP50"]).status == "within"
    assert compare(5, 81.8, 0.1, 81.5, EXPECTED_STD["AP50"]).status == "outside"
    verdict = compare(5, 80.9, 0.2, 81.5, EXPECTED_STD["AP50"])
    assert verdict.text == "80.9 +/- 0.2 over 5 trials: 0.6 below the published 81.5, beyond noise (0.3)"


def test_our_own_spread_counts_when_it_is_larger() -> None:
    assert compare(5, 81.0, 0.5, 81.5, 0.2).status == "within"


def test_a_difference_at_the_limit_is_within() -> None:
    limit = 2 * 0.2 * math.sqrt(2 / 5)
    assert compare(5, 50 + limit, 0.0, 50.0, 0.2).status == "within"


@pytest.mark.parametrize("mean", [81.5, 40.0])
def test_one_trial_gives_no_verdict(mean: float) -> None:
    verdict = compare(1, mean, math.nan, 81.5, 0.2)
    assert verdict.status == "open" and "one trial gives no verdict" in verdict.text
    assert compare_coco(1, mean, 81.5).status == "open"


def test_coco_gap() -> None:
    assert compare_coco(2, 38.8, 38.5).status == "within"
    assert compare_coco(2, 38.9, 38.5).text == "38.9 over 2 trials: 0.4 above the published 38.5, beyond noise (0.3)"


@pytest.mark.parametrize(
    ("n", "mean", "std", "match"),
    [(0, 1.0, 0.0, "0 trials"), (2, math.nan, 0.0, "finite"), (2, 1.0, math.nan, "std is nan")],
)
def test_nonsense_is_refused(n: int, mean: float, std: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compare(n, mean, std, 1.0, 0.2)
