"""Writes the generated scenes in the layouts of LVIS and Cityscapes, and the spec files of all but keypoints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from transfer.data.cityscapes import THINGS
from transfer.data.generated_scenes import CLASSES, Scene

_ROAD = 7
_SHARES = (20, 20, 16, 12, 8, 5, 3, 2)  # of twenty images, in how many a class is annotated: a long tail


def instance_ids(scene: Scene) -> np.ndarray:
    """Returns (H, W) uint16 instance ids; classes become Cityscapes' things in order, difficult objects groups."""
    labels = dict(zip(CLASSES, THINGS.values(), strict=True))
    ids = np.full((scene.height, scene.width), _ROAD, np.uint16)
    for number, thing in enumerate(scene.things):
        label = labels[thing.name]
        ids[thing.mask] = label if thing.difficult else label * 1000 + number
    return ids


def lvis_json(instances: dict[str, Any]) -> dict[str, Any]:
    """Thins out an instances json to resemble LVIS's federated annotations.

    In an image a class is annotated, known to be absent, or not mentioned; some annotated classes lack an object. Which
    case applies depends on image and class alone.
    """
    objects: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for annotation in instances["annotations"]:
        objects.setdefault((annotation["image_id"], annotation["category_id"]), []).append(annotation)
    images, annotations = [], []
    images_with: Counter[int] = Counter()
    for i, image in enumerate(instances["images"]):
        absent: list[int] = []
        partial: list[int] = []
        for c, share in enumerate(_SHARES, start=1):
            here = objects.get((image["id"], c), [])
            if not here:
                absent += [c] * ((i + c) % 3 == 0)
            elif (7 * i + 3 * c) % 20 < share:
                if len(here) > 1 and (i + c) % 4 == 0:
                    partial, here = [*partial, c], here[1:]
                annotations += here
                images_with[c] += 1
        images.append(
            {
                **image, "coco_url": f"http://images.example.org/JPEGImages/{image['file_name']}",
                "neg_category_ids": absent, "not_exhaustive_category_ids": partial,
            }
        )  # fmt: skip
    categories = [
        {**category, "frequency": "ffccccrr"[category["id"] - 1], "image_count": images_with[category["id"]]}
        for category in instances["categories"]
    ]
    return {**instances, "images": images, "annotations": annotations, "categories": categories}


LVIS_SPEC = """\
# The same images annotated as LVIS is: a long tail of classes, and images that do not speak of all of them.
name: generated_lvis
format: lvis
root: .
splits:
  train: {images: scenes, annotations: lvis/lvis_train.json}
  val: {images: scenes, annotations: lvis/lvis_val.json}
"""

CITYSCAPES_SPEC = """\
# A quarter of the scenes in the Cityscapes layout; shapes stand for its things, in their order.
name: generated_cityscapes
format: cityscapes
root: cityscapes
splits: [train, val]
"""

VOC_SPEC = """\
# The generated scenes in the Pascal VOC layout; evaluated with the 11-point metric, as the papers do VOC 2007.
name: generated
format: voc
root: scenes
classes: [{classes}]
year: 2007
splits: [trainval, test]
"""

COCO_SPEC = """\
# The same images in the COCO layout, with masks.
name: generated_coco
format: coco
root: .
splits:
  train: {images: scenes/JPEGImages, annotations: coco/instances_train.json}
  val: {images: scenes/JPEGImages, annotations: coco/instances_val.json}
"""

SEMANTIC_SPEC = """\
# A class for every pixel of the same images; difficult objects are ignored.
name: generated_sem_seg
format: semantic
root: scenes
classes: [background, {classes}]
splits:
  train: {{images: JPEGImages, labels: SemanticMaps, list: ImageSets/Main/trainval.txt}}
  val: {{images: JPEGImages, labels: SemanticMaps, list: ImageSets/Main/test.txt}}
"""
