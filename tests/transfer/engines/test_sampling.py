"""Repeat factors by hand and as Detectron2 computes them; the stream that they make."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from transfer.config.load import load_config
from transfer.engines.sampling import configured_factors, index_stream, repeat_factors, subset_factors

DEMO = Path(__file__).parents[3] / "configs" / "transfer" / "voc" / "faster_rcnn_narrow_C4_demo_moco.yaml"


def records(seed: int = 0, images: int = 50) -> list[dict]:
    """Class c is in about one of 2**c images; some images have no object, some a class twice."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        classes = [c for c in range(6) if rng.random() < 2.0**-c] * int(rng.integers(1, 3))
        found.append({"annotations": [{"category_id": c, "iscrowd": 0} for c in classes]})
    return found


def test_factors_by_hand() -> None:
    """Four images; class 0 in all, class 1 in one of them: f = 1/4, threshold 1: sqrt(4) = 2."""
    four = [{"annotations": [{"category_id": 0}]} for _ in range(3)]
    four += [{"annotations": [{"category_id": 0}, {"category_id": 1}, {"category_id": 1}]}]
    assert repeat_factors(four, 1.0) == [1, 1, 1, 2]
    assert repeat_factors(four, 1.0, sqrt=False) == [1, 1, 1, 4]
    assert repeat_factors(four, 0.0) == [1, 1, 1, 1]
    assert repeat_factors([{"annotations": []}], 0.5) == [1]


@pytest.mark.d2
@pytest.mark.parametrize("sqrt", [True, False])
def test_factors_equal_detectron2s(sqrt: bool) -> None:
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records(), 0.3, sqrt)
    assert np.array_equal(np.array(repeat_factors(records(), 0.3, sqrt), np.float32), theirs.numpy())
    assert max(theirs) > 1.5


def test_images_come_as_often_as_their_factors_say() -> None:
    factors = [1.0, 1.5, 2.25, 1.0]
    passes = 400
    drawn = Counter(i for _, i in itertools.islice(index_stream(4, 5, factors=factors), int(passes * sum(factors))))
    for i, factor in enumerate(factors):
        assert drawn[i] / passes == pytest.approx(factor, abs=0.1)


def test_the_stream_is_a_function_of_the_seed_and_shared_by_ranks() -> None:
    factors = repeat_factors(records(), 0.3)
    whole = list(itertools.islice(index_stream(50, 7, factors=factors), 200))
    assert whole == list(itertools.islice(index_stream(50, 7, factors=factors), 200))
    assert whole != list(itertools.islice(index_stream(50, 8, factors=factors), 200))
    parts = [list(itertools.islice(index_stream(50, 7, rank, 2, factors), 100)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == whole
    assert [p for p, _ in parts[1]] == list(range(1, 200, 2))


@pytest.mark.parametrize(("ratio", "images"), [(0.1, 4), (0.01, 1), (0.5, 20), (1.0, 40)])
def test_a_share_of_the_images_is_trained_on(ratio: float, images: int) -> None:
    """Always the same ones of a seed, all of them equally often."""
    factors = subset_factors(40, ratio, seed=3)
    drawn = Counter(i for _, i in itertools.islice(index_stream(40, 5, factors=factors), 10 * images))
    assert len(drawn) == images and set(drawn.values()) == {10}
    assert {i for i, factor in enumerate(factors) if factor} == set(drawn)


def test_shares_are_nested_and_differ_by_seed() -> None:
    few, more = (set(np.flatnonzero(subset_factors(200, ratio, 1))) for ratio in (0.01, 0.1))
    assert few < more
    assert few != set(np.flatnonzero(subset_factors(200, 0.01, 2)))


def test_the_share_comes_from_the_config() -> None:
    asked = ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "DATALOADER.RANDOM_SUBSET_RATIO", "0.1"]
    cfg = load_config(DEMO, [*asked, "SEED", "4"])
    assert configured_factors(cfg, records()) == subset_factors(50, 0.1, 4)
    assert configured_factors(load_config(DEMO), records()) is None
