"""What is written of a network's findings, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from transfer.evaluation.predictions import ImageDetections
from transfer.report.predict import Output


def record(number: int, side: int = 200) -> dict[str, Any]:
    return {"file_name": f"{number}.png", "image_id": number, "width": side, "height": side, "annotations": []}


def found(number: int, mask: np.ndarray | None = None) -> ImageDetections:
    """One object in an image, in a box of 106 x 100 pixels."""
    masks = None if mask is None else [mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))]
    box = np.array([[47, 50, 153, 150]], np.float32)
    return ImageDetections(number, box, np.array([0.9], np.float32), np.array([0]), masks)


def test_the_area_is_that_of_the_mask_or_else_of_the_box(tmp_path: Path) -> None:
    place = np.arange(200)
    thin = (np.abs(place[:, None] - place) < 4) & (place[:, None] >= 50) & (place[:, None] < 150)
    for mask, area in ((thin, 700), (None, 106 * 100)):
        output = Output(tmp_path, ["x"], 0.5, False)
        output.add(record(1), found(1, mask))
        output.finish({})
        (annotation,) = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
        assert annotation["area"] == area and ("segmentation" in annotation) == (mask is not None)
