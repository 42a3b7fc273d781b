"""The resize inside an exported network is PIL's, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transfer.engines.tv import mapper
from transfer.engines.tv.serving.resize import output_size, resized, size_of


def test_output_size_is_that_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width, short = (int(x) for x in rng.integers(1, 3000, 3))
        longest = int(rng.integers(1, 2000))
        expected = mapper.output_size(height, width, short, longest)
        assert tuple(output_size(torch.tensor([height, width]), short, longest).tolist()) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [((48, 64), (80, 107)), ((300, 211), (50, 35)), ((1, 7), (5, 5)), ((64, 64), (64, 90)), ((33, 50), (33, 50)),
     ((480, 640), (9, 640)), ((5, 4), (1, 1))],
)  # fmt: skip
def test_resized_is_pil(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*old, 3), dtype=np.uint8)
    found = resized(mapper.to_tensor(image), torch.tensor(new))
    assert size_of(found).tolist() == list(new)
    np.testing.assert_array_equal(found.numpy().transpose(1, 2, 0), mapper.resize(image, new))
