"""Describes the keypoints of a data set: names, which of them swap in a mirrored image, and lines between them.

COCO's annotations hold a flat list [x0, y0, v0, x1, y1, v1, ...] per object, with v = 0 for a point that is not
labelled, 1 for one that is labelled but hidden, 2 for one that is seen. x and y are indices of pixels; in records they
are continuous, half a pixel more, as Detectron2 has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.wording import short
from transfer.data.faults import Faults
from transfer.data.segmentation import all_numbers, is_number
from transfer.data.spec import few, nearest

HALF_PIXEL = 0.5  # from the index of a pixel to the continuous coordinate of its centre

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
"""How far annotators differ on each of COCO's 17 points of a person, in shares of the person's size."""

_SIDES = re.compile("left|right", re.IGNORECASE)
_OTHER = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "right": "left", "Right": "Left", "RIGHT": "LEFT"}


@dataclass(frozen=True)
class Keypoints:
    """Describes the k points that every object of a data set may have.

    Attributes:
        names: names in the order of the annotations' lists.
        pairs: (left, right) positions in `names` that swap under a horizontal flip; None if they are not known.
        skeleton: (from, to) positions in `names`, for pictures.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...] | None = None
    skeleton: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flipped(self) -> tuple[int, ...]:
        """Returns (k,) which point comes at each place of a mirrored image's list; without pairs every point stays."""
        order = list(range(len(self.names)))
        for a, b in self.pairs or ():
            order[a], order[b] = b, a
        return tuple(order)


def read_keypoints(
    categories: Sequence[Mapping[str, Any]], flip_pairs: Sequence[Sequence[str]] | None, faults: Faults
) -> Keypoints | None:
    """Returns the keypoints that the categories of a json name; None if they name none, or different ones.

    Args:
        flip_pairs: names that swap under a horizontal flip, from the spec file; None takes the names that differ only
            in left and right.
    """
    named = {str(c["name"]): c["keypoints"] for c in categories if c.get("keypoints")}
    if not named:
        if flip_pairs is not None:
            faults.error("flip_pairs are given, but no category of the json lists its keypoints")
        return None
    for category, names in named.items():
        if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() and n.isprintable() for n in names):
            faults.error("keypoints of a category that are no list of names", f"{category}: {short(names)}")
            return None
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            faults.error("keypoint name that stands twice in a category", f"{category}: {few(twice)}")
            return None
    if len(named) < len(categories) or len({tuple(names) for names in named.values()}) > 1:
        counts = [f"{c['name']} {len(named.get(str(c['name']), ()))}" for c in categories]
        faults.warn("categories with different keypoints, which are not read: give all the same, or split the set",
                    *counts)  # fmt: skip
        return None
    names = tuple(next(iter(named.values())))
    pairs = _by_name(names) if flip_pairs is None else _given(flip_pairs, names, faults)
    skeletons = [c.get("skeleton") for c in categories]
    return Keypoints(names, pairs, _lines(skeletons[0], len(names), faults))


def _by_name(names: Sequence[str]) -> tuple[tuple[int, int], ...] | None:
    """Returns the pairs whose names differ only in left and right; None if there are none or one has no partner."""
    pairs = []
    for here, name in enumerate(names):
        if not _SIDES.search(name):
            continue
        partner = _SIDES.sub(lambda m: _OTHER.get(m[0], m[0]), name)
        if partner == name or partner not in names:
            return None
        if here < (there := names.index(partner)):
            pairs.append((here, there))
    return tuple(pairs) or None


def _given(flip_pairs: Sequence[Sequence[str]], names: Sequence[str], faults: Faults) -> tuple[tuple[int, int], ...]:
    unknown = [f"'{name}'{nearest(name, names)}" for pair in flip_pairs for name in pair if name not in names]
    if unknown:
        faults.error(f"flip_pairs with a name that is no keypoint (they are {few(names, 20)})", *unknown)
        return ()
    if twice := [name for name, n in Counter(name for pair in flip_pairs for name in pair).items() if n > 1]:
        faults.error("flip_pairs with a name in two places", *twice)
        return ()
    return tuple((names.index(a), names.index(b)) for a, b in flip_pairs)


def _lines(skeleton: Any, count: int, faults: Faults) -> tuple[tuple[int, int], ...]:
    """Returns the skeleton's lines, counted from 0; the json counts from 1."""
    if not skeleton:
        return ()
    if not isinstance(skeleton, list) or not all(
        isinstance(line, list) and len(line) == 2 and all(type(v) is int and 1 <= v <= count for v in line)
        for line in skeleton
    ):
        faults.warn(f"skeleton that is no list of pairs of numbers from 1 to {count}: not drawn", short(skeleton))
        return ()
    return tuple((a - 1, b - 1) for a, b in skeleton)


def checked_points(annotation: Mapping[str, Any], count: int) -> tuple[list[float], int, str, str]:
    """Checks an annotation's points and that they are as many as there must be.

    Returns:
        The flat list (k * 3; zeros if there is none), how many points are labelled, what is wrong, and the wrong value
        (both empty if nothing is wrong).
    """
    points = annotation.get("keypoints")
    if points is None:
        points = [0] * (3 * count)
    if not isinstance(points, list) or len(points) != 3 * count:
        length = f"{len(points)} numbers" if isinstance(points, list) else short(points)
        return [], 0, f"keypoints that are no list of {3 * count} numbers, [x, y, visibility] of {count} points", length
    if not all_numbers(points):
        odd = next((v for v in points if not is_number(v)), points)
        return [], 0, "keypoints that hold what is no finite number", short(odd)
    if odd := set(points[2::3]) - {0, 1, 2}:
        return [], 0, "keypoint visibility that is not 0 (not labelled), 1 (hidden) or 2 (seen)", short(min(odd))
    labelled = count - points[2::3].count(0)
    stated = annotation.get("num_keypoints")
    if stated is not None and stated != labelled:
        return [], 0, "num_keypoints that is not the number of labelled points", f"{short(stated)}, not {labelled}"
    return points, labelled, "", ""


def outside(points: Sequence[float], width: int, height: int) -> bool:
    """Returns whether a labelled point lies outside its image."""
    return any(
        v and not (-HALF_PIXEL <= x <= width - HALF_PIXEL and -HALF_PIXEL <= y <= height - HALF_PIXEL)
        for x, y, v in zip(points[0::3], points[1::3], points[2::3], strict=True)
    )


def continuous(points: Sequence[float]) -> list[float]:
    """Turns a json's flat list into that of records, with half a pixel more in x and y."""
    return [v if place % 3 == 2 else v + HALF_PIXEL for place, v in enumerate(points)]


def keypoints_differ(sets: Mapping[str, Keypoints | None]) -> str | None:
    """Says in a sentence how the keypoints of data sets used together differ; returns None if they agree."""
    known = [(name, keypoints) for name, keypoints in sets.items() if keypoints is not None]
    for name, keypoints in known[1:]:
        first, theirs = known[0]
        for what, a, b in (("names", theirs.names, keypoints.names), ("flip pairs", theirs.pairs, keypoints.pairs)):
            if a != b:
                return (
                    f"the {what} of the keypoints of data sets '{first}' and '{name}' differ ({short(a)} against "
                    f"{short(b)}); sets of one training must agree"
                )
    return None
