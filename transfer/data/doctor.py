"""Examines a dataset before a run does, and shows everything missing or inconsistent on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transfer.data import semantic_sets
from transfer.data.dataset import examine
from transfer.data.faults import Problem
from transfer.data.format import Contents
from transfer.data.formats import format_of
from transfer.data.image_files import check_files
from transfer.data.spec import DatasetSpec

EXPECTED_IMAGES = {
    "voc_2007_train": 2501,
    "voc_2007_val": 2510,
    "voc_2007_trainval": 5011,
    "voc_2007_test": 4952,
    "voc_2012_train": 5717,
    "voc_2012_val": 5823,
    "voc_2012_trainval": 11540,
    "coco_2017_train": 118287,
    "coco_2017_val": 5000,
    "keypoints_coco_2017_train": 118287,
    "keypoints_coco_2017_val": 5000,
    **semantic_sets.IMAGES,
    "cityscapes_fine_instance_seg_train": 2975,
    "cityscapes_fine_instance_seg_val": 500,
}


@dataclass(frozen=True)
class Report:
    """Holds what `check` found.

    Attributes:
        boxes, set_aside: number of objects (in maps, of pixels) per class; see `Format.census`.
        trainable: whether an image has an object that training uses, or every image a map.
        keypoints: name -> how often it is labelled and seen, and how often labelled but hidden.
    """

    spec: DatasetSpec
    images: int
    boxes: dict[str, int]
    set_aside: dict[str, int]
    problems: list[Problem]
    trainable: bool = True
    keypoints: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Returns whether the set can be opened and trained on; warnings and faults of scoring alone may remain."""
        return all(problem.level != "error" for problem in self.problems)

    @property
    def scorable(self) -> bool:
        """Returns whether the set can be a test set."""
        return all(problem.level not in ("error", "unscorable", "unannotated") for problem in self.problems)

    def __str__(self) -> str:
        spec, form = self.spec, format_of(self.spec)
        total = f"{self.images} images, {sum(self.boxes.values())} {form.counted}" + (
            "" if form.pixels else f", {sum(self.set_aside.values())} of them {form.set_aside}"
        )
        lines = [f"{spec.name}: {total}", f"  {form.place(spec)}"]
        cells = []
        width = max((len(name) for name in self.boxes), default=0)
        for name, count in self.boxes.items() if self.images else ():
            cells.append(
                f"{name:{width}} {count:7d}" + (f" ({self.set_aside[name]})" if name in self.set_aside else "")
            )
        columns = 1 if len(cells) <= 10 else 3
        rows = -(-len(cells) // columns)
        cell_width = max((len(cell) for cell in cells), default=0) + 3
        for row in range(rows):
            lines.append("  " + "".join(f"{cell:{cell_width}}" for cell in cells[row::rows]).rstrip())
        if self.keypoints:
            width = max(map(len, self.keypoints))
            lines.append("  keypoints: seen, and hidden but labelled")
            lines += [f"    {name:{width}} {seen:7d} {hidden:7d}" for name, (seen, hidden) in self.keypoints.items()]
        lines += [f"  {problem}" for problem in self.problems]
        said = any(spec.remedy in problem.what for problem in self.problems)  # by what could not be read at all
        remedy = f"; {spec.remedy}" if spec.remedy and not said else ""
        if self.trainable:
            verdict = "ok" if self.scorable else "ok to train on, but not as a test set"
        else:
            verdict = "ok to run a detector over; there is nothing to train on or to score"
        lines.append(f"  {verdict}" if self.ok else f"  not usable as it is{remedy}")
        return "\n".join(lines)


def check(spec: DatasetSpec, decode: bool = True) -> Report:
    """Finds everything that is missing or inconsistent in one dataset. Faults are reported, never raised.

    Errors are missing or malformed files, images that cannot be read, have more than 8 bits per pixel or differ in size
    from the annotation, classes that are not listed, boxes inverted or wholly outside, an image listed twice, and in
    the official sets a number of images other than the published one. Errors only in a test set are objects that
    perfect detections cannot find, such as boxes without area (training leaves them out). Warnings are boxes that
    reach over the border (training clips them) and listed classes without an object. Notes say what is mended on
    reading.

    Args:
        decode: decode every image, which finds truncated files; False reads only their headers.
    """
    contents, faults = examine(spec)
    if contents is None:
        return Report(spec, 0, dict.fromkeys(spec.classes or (), 0), {}, faults.problems)
    form = format_of(spec)
    boxes, aside = form.census(contents, spec.name, faults)
    without = sum("segmentation" not in a for r in contents.records for a in r["annotations"])
    if without and form.masks:
        faults.note(f"{without} of {sum(boxes.values())} objects have no mask, which MODEL.MASK_ON asks for")
    check_files(contents.records, contents.missing, spec.name, faults, decode)
    images = len(contents.records)
    for name in contents.classes if images else ():
        if not boxes[name]:
            faults.warn(form.absent, name)
    expected = EXPECTED_IMAGES.get(spec.name)
    if images and expected is not None and images != expected:
        faults.error(f"{images} images; the official set has {expected}")
    trainable = form.pixels or any(not a.get("iscrowd", 0) for r in contents.records for a in r["annotations"])
    return Report(spec, images, boxes, aside, faults.problems, trainable, _keypoints(contents))


def _keypoints(contents: Contents) -> dict[str, tuple[int, int]]:
    """Returns for each keypoint's name how often it is seen, and hidden but labelled, over all objects."""
    if contents.keypoints is None:
        return {}
    visibility = contents.truth.keypoints[:, :, 2]
    return {
        name: (int((visibility[:, k] == 2).sum()), int((visibility[:, k] == 1).sum()))
        for k, name in enumerate(contents.keypoints.names)
    }
