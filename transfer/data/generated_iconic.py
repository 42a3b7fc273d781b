"""Draws the iconic part of the generated set: one object per image, as ImageNet has them."""

from __future__ import annotations

import numpy as np

from pretrain.runtime.seed import derive
from transfer.data.drawing import ColourPair, Pose, Rng, any_colours, blob, coverage, expose, ground, paint, plain
from transfer.data.generated_scenes import CLASSES, random_light


def draw(
    seed: int, part: int, index: int, size: tuple[int, int], colours: ColourPair = any_colours
) -> tuple[str, np.ndarray]:
    """Draws one large, perhaps partly hidden object; returns its class and the picture, (H, W, 3) uint8 BGR."""
    rng: Rng = np.random.default_rng(derive(seed, part, index))
    name = list(CLASSES)[index % len(CLASSES)]
    shape, texture = CLASSES[name]
    width, height = size
    image, light = ground(rng, height, width, colours), random_light(rng)

    def clutter(radius: float, centre: tuple[float, float], image: np.ndarray) -> np.ndarray:
        pose = Pose.random(rng, centre, radius)
        return paint(image, coverage(blob(rng), pose, height, width), plain, pose, light, rng, colours)

    side = min(width, height)
    for _ in range(int(rng.integers(0, 3))):
        image = clutter(side * rng.uniform(0.1, 0.3), (rng.uniform(0, width), rng.uniform(0, height)), image)
    radius = side * rng.uniform(0.27, 0.48)
    centre = (width / 2 + rng.uniform(-0.12, 0.12) * width, height / 2 + rng.uniform(-0.12, 0.12) * height)
    pose = Pose.random(rng, centre, radius)
    image = paint(image, coverage(shape(rng), pose, height, width), texture, pose, light, rng, colours)
    if rng.random() < 0.3:
        turn = rng.uniform(0, 2 * np.pi)
        beside = (centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn))
        image = clutter(radius * rng.uniform(0.25, 0.5), beside, image)
    return name, expose(rng, image)
