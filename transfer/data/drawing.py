"""Draws the generated set's pictures: textured shapes on textured grounds, antialiased, with light and shadow.

Pictures are (H, W, 3) float32 RGB in [0, 1], coverages (H, W) float32 in [0, 1]; x runs right, y down, pixel (row r,
column c) covers the unit square from (c, r). An object's own frame has its centre at the origin and radius 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pretrain.runtime.opencv import cv2

Rng = np.random.Generator
_SUPERSAMPLE = 4
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Pose:
    """Places an object: centre and radius in pixels, and its frame's axes (2, 2), with image = centre + axes @ own."""

    centre: tuple[float, float]
    radius: float
    axes: np.ndarray

    @staticmethod
    def random(rng: Rng, centre: tuple[float, float], radius: float) -> Pose:
        """Draws a pose with any rotation, flattened by up to 1:0.7 along any direction."""
        turn, tilt = rng.uniform(0, 2 * math.pi, 2)
        flatten = _rotation(tilt) @ np.diag([1.0, rng.uniform(0.7, 1.0)]) @ _rotation(-tilt)
        return Pose(centre, radius, radius * flatten @ _rotation(turn))


def _rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


# Shapes: contours in the object's frame, filled by the even-odd rule.


def _wobble(rng: Rng, angle: np.ndarray, strength: float) -> np.ndarray:
    """Returns a smooth closed radius around 1 for each angle."""
    orders = np.arange(2, 6)
    weight = rng.normal(0, strength, 4) / orders
    return 1 + (weight[:, None] * np.cos(orders[:, None] * angle + rng.uniform(0, 2 * math.pi, (4, 1)))).sum(0)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def disk(rng: Rng) -> list[np.ndarray]:
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return [_polar(_wobble(rng, angle, 0.04), angle)]


def ring(rng: Rng) -> list[np.ndarray]:
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    outer = _wobble(rng, angle, 0.04)
    return [_polar(outer, angle), _polar(outer * rng.uniform(0.38, 0.55), angle)]


def star(rng: Rng) -> list[np.ndarray]:
    points = int(rng.integers(5, 7))
    angle = np.linspace(0, 2 * math.pi, 2 * points, endpoint=False)
    radius = np.where(np.arange(2 * points) % 2 == 0, rng.uniform(0.88, 1.05, 2 * points), rng.uniform(0.42, 0.56))
    return [_polar(radius, angle)]


def cross(rng: Rng) -> list[np.ndarray]:
    a, b = rng.uniform(0.26, 0.40, 2)
    x, y = rng.uniform(0.88, 1.0, 2)
    corners = [
        (a, y),
        (a, b),
        (x, b),
        (x, -b),
        (a, -b),
        (a, -y),
        (-a, -y),
        (-a, -b),
        (-x, -b),
        (-x, b),
        (-a, b),
        (-a, y),
    ]
    return [np.array(corners)]


def blob(rng: Rng) -> list[np.ndarray]:
    """Returns clutter: a shape that belongs to no class."""
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    return [_polar(np.maximum(_wobble(rng, angle, 0.45), 0.25), angle)]


def coverage(contours: list[np.ndarray], pose: Pose, height: int, width: int) -> np.ndarray:
    """Returns the share of each pixel that the shape covers, (H, W)."""
    scale, bits = _SUPERSAMPLE, 4
    points = [(c @ pose.axes.T + pose.centre) * scale - 0.5 for c in contours]
    canvas = np.zeros((height * scale, width * scale), np.uint8)
    cv2.fillPoly(canvas, [np.rint(p * 2**bits).astype(np.int32) for p in points], 255, shift=bits)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


# Textures: a wave over the object's frame; its sign chooses between two colours.


def stripes(rng: Rng, u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    return np.sin(f * u + rng.uniform(0, 2 * math.pi)) + rng.uniform(-0.3, 0.3)


def waves(rng: Rng, u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    bend = np.abs((v * f * 0.22 + rng.uniform(0, 1)) % 1.0 - 0.5) * 2
    return np.sin(f * u + rng.uniform(3.0, 4.2) * bend + rng.uniform(0, 2 * math.pi)) + rng.uniform(-0.3, 0.3)


def checks(rng: Rng, u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    a, b = rng.uniform(0, 2 * math.pi, 2)
    return 1.6 * np.sin(0.8 * f * u + a) * np.sin(0.8 * f * v + b)


def dots(rng: Rng, u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    a, b = rng.uniform(0, 2 * math.pi, 2)
    return np.cos(f * u + a) + np.cos(f * v + b) - rng.uniform(0.35, 0.7)


def plain(rng: Rng, u: np.ndarray, v: np.ndarray, f: float) -> np.ndarray:
    """Returns a soft gradient: a texture that belongs to no class."""
    return np.float32(0.8) * u


Texture = Callable[[Rng, np.ndarray, np.ndarray, float], np.ndarray]


ColourPair = Callable[[Rng, tuple[float, float]], tuple[np.ndarray, np.ndarray]]
"""Draws two colours, (3,) each, in either order; the numbers are the least and the greatest gap in luminance."""


def paint(
    image: np.ndarray,
    alpha: np.ndarray,
    texture: Texture,
    pose: Pose,
    light: np.ndarray,
    rng: Rng,
    colours: ColourPair,
) -> np.ndarray:
    """Paints an object of coverage `alpha` over `image`, lit from direction `light` (2,), with a soft shadow."""
    height, width = alpha.shape
    size = max(1.0, pose.radius * 0.18)
    shift = np.array([[1, 0, -light[0] * size], [0, 1, -light[1] * size]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, (width, height)), (0, 0), size * 0.7)
    image = image * (1 - rng.uniform(0.3, 0.6) * shadow)[..., None]

    inverse = np.linalg.inv(pose.axes).astype(np.float32)
    x = np.arange(width, dtype=np.float32) + np.float32(0.5 - pose.centre[0])
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5 - pose.centre[1])
    u, v = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y
    f = math.pi * rng.uniform(2.6, 4.4)  # waves across the diameter, times pi
    softness = pose.radius / f  # pixels per radian: the edge between two colours is about a pixel wide
    mix = np.clip(0.5 + texture(rng, u, v, f) * np.float32(softness if texture is not plain else 0.5), 0, 1)
    dark, bright = colours(rng, (0.25, 0.6))
    colour = dark + (bright - dark) * mix[..., None]
    relief = cv2.GaussianBlur(alpha, (0, 0), size * 0.8) - 0.5  # darker towards the rim
    shade = 1 + 0.45 * relief + 0.22 * (light[0] * x + light[1] * y) / np.float32(pose.radius)
    colour = colour * np.clip(shade, 0.35, 1.5).astype(np.float32)[..., None]
    return image + (colour - image) * alpha[..., None]


def any_colours(rng: Rng, gap: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Draws two colours of any hue anew for every object, so that colours alone tell a picture from all others."""
    low = rng.uniform(0.05, 0.9 - gap[1])
    levels = [low, low + rng.uniform(*gap)]
    colours = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    return _at_levels(colours, levels, rng)


def muted_colours(rng: Rng, gap: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Draws two of six pale hues that all pictures share; only their luminance is drawn anew."""
    low = rng.uniform(0.05, 0.9 - gap[1])
    levels = [low, low + rng.uniform(*gap)]
    return _at_levels(_PALE[rng.integers(0, len(_PALE), 2)], levels, rng)


def _at_levels(colours: np.ndarray, levels: list[float], rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Brings (2, 3) colours to the luminances `levels`, in either order."""
    colours = colours + (np.array(levels, np.float32)[:, None] - (colours @ _LUMA)[:, None])
    first = int(rng.integers(2))
    colours = np.clip(colours, 0.02, 0.98)
    return colours[first], colours[1 - first]


_HUES = np.arange(6) * (math.pi / 3)
_PALE = (0.06 * np.cos(_HUES[:, None] - np.array([0, 2, 4]) * (math.pi / 3))).astype(np.float32)

PALETTES: dict[str, ColourPair] = {"any": any_colours, "muted": muted_colours}


# Grounds.


def ground(rng: Rng, height: int, width: int, colours: ColourPair) -> np.ndarray:
    """Draws a textured background: clouds, cells, planks or ripples in two colours, with grain and uneven light."""
    kind = (_clouds, _cells, _planks, _ripples)[int(rng.integers(4))]
    dark, bright = colours(rng, (0.08, 0.4))
    value = kind(rng, height, width) * 0.75 + noise(rng, height, width, 2) * 0.25
    image = dark + (bright - dark) * value[..., None]
    return image * (0.75 + 0.5 * noise(rng, height, width, 2, fineness=1.0))[..., None]


def noise(rng: Rng, height: int, width: int, octaves: int, fineness: float = 3.0, stretch: float = 1.0) -> np.ndarray:
    """Draws (H, W) smooth noise in [0, 1] with `fineness` cells along the longer side in the coarsest octave."""
    out = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell = max(height, width) / (fineness * 2**octave)
        rows, columns = (math.ceil(n / c) + 2 for n, c in ((height, cell), (width, cell * stretch)))
        grid = rng.random((rows, columns), dtype=np.float32)
        out += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = float(out.min()), float(out.max())
    return (out - low) / max(high - low, 1e-6)


def _clouds(rng: Rng, height: int, width: int) -> np.ndarray:
    return noise(rng, height, width, 5, fineness=rng.uniform(2, 6), stretch=math.exp(rng.uniform(-1.2, 1.2)))


def _cells(rng: Rng, height: int, width: int) -> np.ndarray:
    """Draws pebbles around scattered points, each with its own shade and darker between them."""
    count = int(rng.integers(15, 70))
    seeds = np.full((height, width), 255, np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shade = rng.random(int(labels.max()) + 1, dtype=np.float32)
    reach = math.sqrt(height * width / count)
    return np.clip(0.25 + 0.75 * shade[labels] - 0.6 * (distance / reach) ** 2, 0, 1).astype(np.float32)


def _planks(rng: Rng, height: int, width: int) -> np.ndarray:
    """Draws bands at any angle, each with its own shade and a dark joint."""
    across, _ = _turned(rng, height, width)
    position = across * rng.uniform(4, 11) + 0.25 * noise(rng, height, width, 2)
    index = np.floor(position)
    shade = rng.random(int(index.max() - index.min()) + 1, dtype=np.float32)[(index - index.min()).astype(np.intp)]
    return shade * (0.55 + 0.45 * np.clip(np.minimum(position - index, index + 1 - position) * 9, 0, 1))


def _ripples(rng: Rng, height: int, width: int) -> np.ndarray:
    """Draws a bent grating, or the product of two."""
    a, b = _turned(rng, height, width)
    bend = noise(rng, height, width, 2) * rng.uniform(1, 7)
    wave = np.sin(a * rng.uniform(15, 75) + bend)
    if rng.random() < 0.5:
        wave = wave * np.sin(b * rng.uniform(15, 75) + bend)
    return (0.5 + 0.5 * wave).astype(np.float32)


def _turned(rng: Rng, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two coordinates (H, W) at right angles, turned by any angle, in units of the longer side."""
    x = np.arange(width, dtype=np.float32) / max(height, width)
    y = np.arange(height, dtype=np.float32)[:, None] / max(height, width)
    turn = rng.uniform(0, 2 * math.pi)
    c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    return c * x + s * y, c * y - s * x


def expose(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Adds a camera's blur, brightness and grain: (H, W, 3) float RGB -> uint8 BGR, as OpenCV writes it."""
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    grain = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.035))
    image = (image - 0.5) * rng.uniform(0.75, 1.15) + 0.5 + rng.uniform(-0.08, 0.08) + grain
    return np.ascontiguousarray(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)[..., ::-1])
