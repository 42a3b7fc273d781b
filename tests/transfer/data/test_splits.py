"""Sets drawn apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.data.spec import DatasetError
from transfer.data.splits import divide, read_shares


@given(
    count=st.integers(3, 200),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_name_lies_in_one_split_of_its_share(count: int, weights: list[int], seed: int) -> None:
    names, shares = [f"{i:03}" for i in range(count)], {f"s{i}": w / sum(weights) for i, w in enumerate(weights)}
    if any(share * count < 1 for share in shares.values()):
        return
    drawn = divide(names, shares, seed)
    assert sorted(name for split in drawn.values() for name in split) == names
    assert all(abs(len(drawn[split]) - share * count) < 1 for split, share in shares.items())
    assert all(split == sorted(split) for split in drawn.values())
    assert divide(names[::-1], shares, seed) == drawn


def test_another_seed_draws_others() -> None:
    names = [str(i) for i in range(20)]
    assert divide(names, {"a": 0.5, "b": 0.5}, 0) != divide(names, {"a": 0.5, "b": 0.5}, 1)
    with pytest.raises(DatasetError, match="of 2 images none is left for b"):
        divide(["x", "y"], {"a": 0.9, "b": 0.1}, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "share 'train' is not of the form train=0.8"),
        (["train=x"], "is not of the form"),
        (["train=nan", "test=1"], "is not of the form"),
        (["train=0", "test=1"], "is not of the form"),
        (["train=0.5"], "sum to 0.5, not to 1"),
        (["train=0.5", "train=0.5"], "split 'train' is given two shares"),
        (["a/b=1"], "split 'a/b': a name has letters"),
        ([".a=1"], "split '.a': a name has letters"),
    ],
)
def test_wrong_shares(words: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_shares(words)


def test_shares() -> None:
    assert read_shares(["train=0.7", "val=.1", "test=0.2"]) == {"train": 0.7, "val": 0.1, "test": 0.2}
