"""Draws scenes of the generated set: several textured shapes, one in front of another, with each one's visible part.

Boxes and masks cover exactly the visible pixels, so VOC and COCO annotations hold equal boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pretrain.runtime.opencv import cv2
from transfer.data.drawing import (
    ColourPair,
    Pose,
    Rng,
    Texture,
    any_colours,
    blob,
    checks,
    coverage,
    cross,
    disk,
    dots,
    expose,
    ground,
    paint,
    plain,
    ring,
    star,
    stripes,
    waves,
)
from transfer.data.generated_keypoints import Point, points

CLASSES = {
    "striped_disk": (disk, stripes),
    "dotted_disk": (disk, dots),
    "dotted_star": (star, dots),
    "checked_star": (star, checks),
    "checked_ring": (ring, checks),
    "wavy_ring": (ring, waves),
    "wavy_cross": (cross, waves),
    "striped_cross": (cross, stripes),
}
"""Class name -> (shape, texture): a ring in which neither alone tells the class."""

_TEXTURES: tuple[Texture, ...] = (stripes, dots, checks, waves)

MIN_SEEN = 0.3  # share of an object that stays visible, the part outside the image counted as hidden
MIN_PIXELS = 40
DIFFICULT_SEEN, DIFFICULT_SIDE = 0.5, 11  # below this share, or this shorter side of the box in pixels: difficult


@dataclass(frozen=True)
class Thing:
    """Holds one annotated object. `mask` (H, W) bool is its visible pixels; for `points` see `generated_keypoints`."""

    name: str
    mask: np.ndarray
    truncated: bool
    occluded: bool
    difficult: bool
    points: tuple[Point, ...] = ()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Returns the box, XYXY in absolute pixels; x1 and y1 lie behind the last visible column and row."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Scene:
    """Holds what one picture shows. `image_id` is COCO's id; VOC's is `name`."""

    image_id: int
    width: int
    height: int
    things: list[Thing] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.image_id:06d}"

    def semantic_map(self) -> np.ndarray:
        """Returns (H, W) uint8: 0 is background and clutter, 1, 2, ... are CLASSES in order, 255 difficult objects."""
        ids = {name: i for i, name in enumerate(CLASSES, start=1)}
        found = np.zeros((self.height, self.width), np.uint8)
        for thing in self.things:
            found[thing.mask] = 255 if thing.difficult else ids[thing.name]
        return found

    def voc_xml(self) -> str:
        """Returns the VOC annotation, with pixels counted from 1 and both ends included."""
        objects = "".join(
            _OBJECT.format(
                name=thing.name,
                truncated=int(thing.truncated),
                occluded=int(thing.occluded),
                difficult=int(thing.difficult),
                box=(thing.box[0] + 1, thing.box[1] + 1, *thing.box[2:]),
            )
            for thing in self.things
        )
        return _XML.format(name=self.name, width=self.width, height=self.height, objects=objects)


def random_light(rng: Rng) -> np.ndarray:
    """Draws a unit vector (2,) towards the light, which mostly comes from above."""
    angle = -math.pi / 2 + rng.normal(0, 0.7)
    return np.array([math.cos(angle), math.sin(angle)])


def draw(rng: Rng, image_id: int, size: tuple[int, int], colours: ColourPair = any_colours) -> tuple[np.ndarray, Scene]:
    """Draws a picture (H, W, 3) uint8 BGR and its annotation. Of `size`, (width, height), area stays, aspect varies."""
    stretch = math.exp(rng.uniform(-0.28, 0.28))
    width, height = round(size[0] * stretch), round(size[1] / stretch)
    image, light = ground(rng, height, width, colours), random_light(rng)
    placed: list[_Placed] = []
    side = math.sqrt(width * height)
    radii = np.sort(np.exp(rng.uniform(math.log(0.065), math.log(0.27), int(rng.integers(2, 8)))) * side)[::-1]
    for radius in radii.tolist():
        if placed and rng.random() < 0.25:  # clutter, of no class
            pose = Pose.random(rng, (rng.uniform(0, width), rng.uniform(0, height)), radius * rng.uniform(0.4, 0.8))
            new = _Placed(None, coverage(blob(rng), pose, height, width), pose, math.inf)
            if _hide(placed, new):
                placed.append(new)
                pattern = plain if rng.random() < 0.5 else _TEXTURES[int(rng.integers(len(_TEXTURES)))]
                image = paint(image, new.alpha, pattern, pose, light, rng, colours)
            continue
        name = list(CLASSES)[int(rng.integers(len(CLASSES)))]
        shape, texture = CLASSES[name]
        contours = shape(rng)
        for _ in range(12):
            pose = Pose.random(rng, _centre(rng, placed, radius, width, height), radius)
            new = _Placed(name, coverage(contours, pose, height, width), pose, _whole_area(contours, pose), contours)
            if new.seen() >= MIN_SEEN and _hide(placed, new):
                placed.append(new)
                image = paint(image, new.alpha, texture, pose, light, rng, colours)
                break
    scene = Scene(image_id, width, height, [p.thing() for p in placed if p.name is not None])
    return expose(rng, image), scene


class _Placed:
    """Holds an object on the canvas; `visible` shrinks as others cover it. `whole` is its unclipped area in pixels."""

    def __init__(
        self, name: str | None, alpha: np.ndarray, pose: Pose, whole: float, contours: Sequence[np.ndarray] = ()
    ) -> None:
        self.contours = contours
        self.name, self.alpha, self.pose, self.whole = name, alpha, pose, whole
        self.visible = alpha >= 0.5
        self.inside = int(self.visible.sum())

    def seen(self, hidden_by: np.ndarray | None = None) -> float:
        visible = self.visible if hidden_by is None else self.visible & ~hidden_by
        pixels = int(visible.sum())
        return pixels / self.whole if pixels >= MIN_PIXELS else 0.0

    def thing(self) -> Thing:
        assert self.name is not None
        truncated = self.inside < 0.97 * self.whole
        occluded = int(self.visible.sum()) < 0.97 * self.inside
        thing = Thing(self.name, self.visible, truncated, occluded, difficult=False)
        x0, y0, x1, y1 = thing.box
        difficult = self.seen() < DIFFICULT_SEEN or min(x1 - x0, y1 - y0) < DIFFICULT_SIDE
        outline = self.contours[0] @ self.pose.axes.T + self.pose.centre
        places = points(outline, self.pose.centre, self.visible)
        return Thing(self.name, self.visible, truncated, occluded, difficult, places)


def _hide(placed: list[_Placed], new: _Placed) -> bool:
    """Puts `new` in front of everything if enough of each object stays visible; returns whether it did."""
    if any(p.name is not None and p.seen(hidden_by=new.visible) < MIN_SEEN for p in placed):
        return False
    for p in placed:
        p.visible &= ~new.visible
    return True


def _centre(rng: Rng, placed: list[_Placed], radius: float, width: int, height: int) -> tuple[float, float]:
    """Draws a centre: half the time anywhere, up to a third over the border, else at the rim of an earlier object."""
    if placed and rng.random() < 0.5:
        other = placed[int(rng.integers(len(placed)))].pose
        turn, gap = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.0) * (radius * 0.6 + other.radius)
        return other.centre[0] + gap * math.cos(turn), other.centre[1] + gap * math.sin(turn)
    margin = radius * 0.67
    return rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)


def _whole_area(contours: list[np.ndarray], pose: Pose) -> float:
    """Returns the area in pixels of contours filled by the even-odd rule, if each lies inside the one before it."""
    areas = [cv2.contourArea((c @ pose.axes.T).astype(np.float32)) for c in contours]
    return float(areas[0] - sum(areas[1:]))


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Returns a (H, W) bool mask as COCO polygons [x0, y0, x1, y1, ...], which pycocotools rasterises to it exactly.

    Outlines run a quarter pixel inside the pixel edges. COCO's polygons cannot have holes, so a mask with one is cut in
    two through the hole.
    """
    doubled = np.pad(mask, 1).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0] if contours else (), strict=True):
        if parent >= 0:
            cut = int(contour[:, 0, 0].mean()) // 2 - 1
            left, right = mask.copy(), mask.copy()
            left[:, cut:], right[:, :cut] = False, False
            return polygons(left) + polygons(right)
    return [((c[:, 0].astype(float) + 0.5) / 2 - 1).ravel().tolist() for c in contours]


def coco_json(scenes: list[Scene]) -> dict[str, Any]:
    """Makes the instances json; category ids count from 1 in the order of CLASSES. `area` is the mask's, in pixels."""
    ids = {name: i for i, name in enumerate(CLASSES, start=1)}
    annotations = []
    for scene in scenes:
        for number, thing in enumerate(scene.things):
            x0, y0, x1, y1 = thing.box
            annotations.append(
                {
                    "id": scene.image_id * 100 + number,
                    "image_id": scene.image_id,
                    "category_id": ids[thing.name],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(thing.mask.sum()),
                    "segmentation": polygons(thing.mask),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "generated shapes and textures"},
        "images": [
            {"id": s.image_id, "file_name": f"{s.name}.jpg", "width": s.width, "height": s.height} for s in scenes
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": name.split("_")[1]} for name, i in ids.items()],
    }


_XML = """\
<annotation>
  <folder>generated</folder>
  <filename>{name}.jpg</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <segmented>0</segmented>
{objects}</annotation>
"""

_OBJECT = """\
  <object>
    <name>{name}</name>
    <pose>Unspecified</pose>
    <truncated>{truncated}</truncated>
    <occluded>{occluded}</occluded>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>
"""
