"""Draws against torch's generator, call by call."""

from __future__ import annotations

import pytest
import torch

from pretrain.data.draws import BLOCK, Draws


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32 + 5, 2**63 - 1])
def test_equal_to_torchs_whatever_is_drawn_after_what(seed: int) -> None:
    ours = Draws(seed)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    for i in range(BLOCK):  # about ten numbers each: many blocks
        low, high = -0.1 * i, 0.7 * i + 0.1
        assert ours.uniform(low, high) == torch.empty(1).uniform_(low, high).item()
        assert ours.uniform() == torch.rand(1).item()
        assert ours.below(i + 1) == torch.randint(i + 1, (1,)).item()
        assert ours.below(2**28 - 1) == torch.randint(2**28 - 1, (1,)).item()
        assert ours.permutation(4) == torch.randperm(4).tolist()
        assert ours.happens(0.3) == (torch.rand(1).item() < 0.3)
    torch.set_rng_state(state)


def test_two_at_a_time_do_not_meet() -> None:
    first, second, again = Draws(3), Draws(4), Draws(3)
    mixed = [(first.uniform(), second.uniform())[0] for _ in range(3 * BLOCK)]
    assert mixed == [again.uniform() for _ in range(3 * BLOCK)]
