"""Keypoints in the report's gallery: a ring for what is annotated, a dot and lines for what is found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tests.transfer.report.test_report import Page
from transfer.data import catalog
from transfer.evaluation.predictions import ImageDetections
from transfer.report.evaluated import Found
from transfer.report.figures.gallery import Gallery


def test_rings_dots_and_lines_stand_where_the_points_are(generated: Path) -> None:
    dataset = catalog.open_dataset(catalog.read_spec_file(generated / "keypoints.yaml")[1])
    record = dataset.records[0]
    truth = np.array([a["keypoints"] for a in record["annotations"]]).reshape(-1, 5, 3)
    boxes = np.array([a["bbox"] for a in record["annotations"]])
    n = len(boxes)
    points = truth.copy()
    points[:, :, :2] += 2
    found = ImageDetections(record["image_id"], boxes, np.linspace(0.9, 0.5, n), np.zeros(n, int), None, points)
    row = Found("MoCo", 1, 1, {record["image_id"]: found}, None, np.zeros(6), 1)
    assert dataset.keypoints is not None
    gallery = Gallery(dataset.classes, dataset.keypoints.skeleton)
    page = Page(gallery.item(record, [row], "one"))
    circles = page.all("circle")
    dots = [(c["cx"], c["cy"]) for c in circles if c["class"] == "dot"]
    rings = [(c["cx"], c["cy"]) for c in circles if c["class"] == "ring"]
    assert len(dots) == 5 * n and len(rings) == int((truth[:, :, 2] > 0).sum())
    assert {(str(round(x, 1)), str(round(y, 1))) for x, y, _ in points.reshape(-1, 3).tolist()} == set(dots)
    assert len(page.all("line")) == 4 * n
    bare = {record["image_id"]: dataclasses.replace(found, keypoints=None)}
    page = Page(gallery.item(record, [dataclasses.replace(row, detections=bare)], "one"))
    assert not page.all("circle") and not page.all("line")
