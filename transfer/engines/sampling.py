"""Gives the endless order of training images, a function of seed and position alone, on both engines."""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode

from pretrain.runtime.seed import derive

logger = logging.getLogger(__name__)

REPEAT_FACTOR = "RepeatFactorTrainingSampler"
SUBSET = "RandomSubsetTrainingSampler"


def index_stream(
    count: int, seed: int, rank: int = 0, world_size: int = 1, factors: Sequence[float] | None = None
) -> Iterator[tuple[int, int]]:
    """Yields endless (position, index): permutation after permutation of all images; each rank takes its share.

    Of the stream, which all ranks share, each one takes every `world_size`-th entry.

    Args:
        count: number of images.
        factors: how often each image comes per pass, on average: a fraction is rounded up in that share of the passes
            (LVIS, appendix B.2 of its second version), and 0 leaves the image out. None takes each image once.
    """

    def everything() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            indices = _repeated(torch.tensor(factors), generator) if factors is not None else torch.arange(count)
            yield from indices[torch.randperm(len(indices), generator=generator)].tolist()

    return itertools.islice(enumerate(everything()), rank, None, world_size)


def _repeated(factors: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turns (count,) factors into the indices of one pass, with fractions rounded at random."""
    whole = factors.floor()
    times = whole + (torch.rand(len(factors), generator=generator) < factors - whole)
    return torch.arange(len(factors)).repeat_interleave(times.long())


def configured_factors(cfg: CfgNode, records: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Returns the factors that DATALOADER.SAMPLER_TRAIN asks for; None if all images come equally often."""
    loader = cfg.DATALOADER
    if loader.SAMPLER_TRAIN == SUBSET:
        factors = subset_factors(len(records), loader.RANDOM_SUBSET_RATIO, seed := max(cfg.SEED, 0))
        logger.info("%.0f of %d images are trained on, drawn by the seed %d", sum(factors), len(factors), seed)
        return factors
    if loader.SAMPLER_TRAIN != REPEAT_FACTOR:
        return None
    factors = repeat_factors(records, loader.REPEAT_THRESHOLD, loader.REPEAT_SQRT)
    logger.info(
        "images of rare classes are repeated: up to %.1f times, %.0f images per pass instead of %d",
        max(factors, default=1.0), sum(factors), len(factors),
    )  # fmt: skip
    return factors


def subset_factors(count: int, ratio: float, seed: int) -> list[float]:
    """Draws the share `ratio` of `count` images, at least one; returns 1 for these images and 0 for the others.

    Each seed draws different images, so trials of a row differ in them while the rows of a trial agree. For one seed,
    a smaller share is a subset of a larger one.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, 2)))
    factors = torch.zeros(count)
    factors[order[: max(1, round(count * ratio))]] = 1
    return factors.tolist()


def repeat_factors(records: Iterable[Mapping[str, Any]], threshold: float, sqrt: bool = True) -> list[float]:
    """Computes how often each image comes per pass, so that rare classes are seen more often.

    A class that occurs in a share f of the images asks for the factor max(1, sqrt(threshold / f)); an image takes the
    largest factor of its classes. Crowd regions count as objects, as in Detectron2.

    Args:
        records: records in Detectron2's form.
        threshold: share of images below which a class is repeated.
        sqrt: whether the root is taken; without it rare classes are repeated more.
    """
    classes = [{annotation["category_id"] for annotation in record["annotations"]} for record in records]
    images_with = Counter(category for here in classes for category in here)
    asks = {}
    for category, images in images_with.items():
        ratio = threshold / (images / len(classes))
        asks[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
    return [max((asks[category] for category in here), default=1.0) for here in classes]
