"""What of two sets of outputs counts as the same, and what is too far."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transfer.engines.tv.serving.proof import difference, made_up

SIZE = (100, 200)  # boxes may be 0.1 pixels apart


def outputs(n: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 90, (n, 2))
    return {
        "boxes": np.concatenate([corner, corner + 5], axis=1).astype(np.float32),
        "scores": np.sort(rng.uniform(0.1, 1, n))[::-1].astype(np.float32),
        "labels": rng.integers(0, 3, n),
        "masks": rng.random((n, *SIZE)) > 0.5,
        "keypoints": rng.uniform(0, 90, (n, 5, 3)).astype(np.float32),
    }


def test_order_is_free_and_rounding_is_told() -> None:
    one, order = outputs(), np.random.default_rng(1).permutation(200)
    other = {name: array[order] for name, array in one.items()}
    other["boxes"] = other["boxes"] + np.float32(0.01)
    other["scores"] = other["scores"] - np.float32(1e-4)
    found = difference(one, other, SIZE)
    assert found.found == (200, 200) and found.lost == 0 and not found.too_large
    assert (found.boxes, found.scores) == (pytest.approx(0.01, rel=0.01), pytest.approx(1e-4, rel=0.01))
    assert (found.masks, found.points) == (0.0, 0.0)
    assert str(found).startswith("200x100: detections 200 and 200, boxes 1.0e-02 pixels, scores 1.0e-04, masks 0.00%")


def _one_label(o: dict[str, np.ndarray]) -> None:
    o["labels"][3] += 1


def _labels(o: dict[str, np.ndarray]) -> None:
    o["labels"][:6] += 1


def _fewer(o: dict[str, np.ndarray]) -> None:
    o.update({name: array[:190] for name, array in o.items()})


@pytest.mark.parametrize(
    ("change", "too_large"),
    [
        (_one_label, False),  # almost equal scores: either may win
        (_labels, True),
        (_fewer, True),
        (lambda o: o["boxes"].__iadd__(0.2), True),
        (lambda o: o["scores"].__imul__(0.9), True),
        (lambda o: o["masks"][5].__ior__(True), True),
        (lambda o: o["keypoints"][0, 0].__iadd__(50), False),
        (lambda o: o["keypoints"][:20].__iadd__(1), True),
    ],
)
def test_what_is_too_far(change: Any, too_large: bool) -> None:
    other = outputs()
    change(other)
    assert difference(outputs(), other, SIZE).too_large is too_large


def test_maps_and_nothing_at_all() -> None:
    one = {"classes": np.zeros(SIZE, dtype=np.int64)}
    other = {"classes": np.zeros(SIZE, dtype=np.int64)}
    other["classes"][0, :19] = 1
    assert difference(one, other, SIZE).classes == pytest.approx(19 / 20000)
    assert not difference(one, other, SIZE).too_large
    other["classes"][0, :21] = 1
    assert difference(one, other, SIZE).too_large
    assert difference(one, {"classes": np.zeros((200, 100))}, SIZE).too_large
    empty = {name: array[:0] for name, array in outputs(2).items()}
    assert not difference(empty, empty, SIZE).too_large and difference(outputs(2), empty, SIZE).too_large


def test_made_up_images_are_always_the_same() -> None:
    assert np.array_equal(made_up(40, 50), made_up(40, 50)) and made_up(40, 50).shape == (40, 50, 3)
    assert made_up(40, 50).std() > 20
