"""Divides a set from a seed: says which images are for training and which for testing."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from transfer.data.spec import DatasetError, few, one_line

_NAME = re.compile(r"[^\W.][\w.+-]{0,79}")


def read_shares(words: Sequence[str]) -> dict[str, float]:
    """Reads `train=0.8 val=0.2`.

    Raises:
        DatasetError: a word has another form, a name comes twice or cannot be part of a file name, a share is not
            above 0, or the shares' sum is not 1.
    """
    shares: dict[str, float] = {}
    for word in words:
        name, sign, number = word.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not sign or not 0 < share <= 1:
            raise DatasetError(f"share '{one_line(word)}' is not of the form train=0.8, a number above 0 and at most 1")
        check_name(name)
        if name in shares:
            raise DatasetError(f"split '{name}' is given two shares; name it once")
        shares[name] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise DatasetError(f"the shares {' '.join(words)} sum to {sum(shares.values()):g}, not to 1")
    return shares


def check_name(name: str) -> None:
    """Raises DatasetError if a split's name cannot be part of a file's name and of a data set's name."""
    if not _NAME.fullmatch(name):
        raise DatasetError(f"split '{one_line(name)}': a name has letters, digits, and . + - _ behind the first")


def divide(names: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Draws every name into one split; names within a split are sorted.

    The same names in any order, shares and seed give the same splits. Sizes follow the method of largest remainders:
    they sum to the number of names, and each differs by less than 1 from its share of them.

    Raises:
        DatasetError: a split would be empty.
    """
    whole = sorted(names)
    exact = {split: share * len(whole) for split, share in shares.items()}
    sizes = {split: int(size + 1e-9) for split, size in exact.items()}
    by_remainder = sorted(shares, key=lambda split: sizes[split] - exact[split])  # stable: of equals the first
    for split in by_remainder[: len(whole) - sum(sizes.values())]:
        sizes[split] += 1
    if empty := [split for split, size in sizes.items() if not size]:
        raise DatasetError(f"of {len(whole)} images none is left for {few(empty)}; give larger shares, or fewer splits")
    random.Random(seed).shuffle(whole)
    drawn: dict[str, list[str]] = {}
    for split, size in sizes.items():
        drawn[split], whole = sorted(whole[:size]), whole[size:]
    return drawn
