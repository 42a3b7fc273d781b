"""Checks image files against annotations: they must be readable, of the annotated size, and of at most 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import ImageOps

from pretrain.runtime.pixels import ImageFileError, is_deep, opened
from transfer.data.dataset import Dataset
from transfer.data.faults import Faults, refuse
from transfer.data.format import Contents
from transfer.data.formats import format_of
from transfer.data.spec import Record, one_line
from transfer.data.threads import in_threads

_checked: dict[str, Dataset] = {}


def check_images(datasets: Iterable[Dataset]) -> None:
    """Reads, before a run does, the header of every image of data sets, and annotations that consist of pixels.

    Raises:
        DatasetError: images cannot be read, differ from the annotated size or have more than 8 bits, or maps hold ids
            that are no class; the message lists all such files of a data set.
    """
    for dataset in datasets:
        if _checked.get(dataset.name) is dataset:  # a trial of the same row has just looked
            continue
        faults = Faults()
        check_files(dataset.records, dataset.missing, dataset.name, faults, decode=False)
        if (form := format_of(dataset.spec)).pixels:
            read = Contents(dataset.classes, dataset.category_ids, dataset.records, truth=dataset.truth)
            form.census(read, dataset.name, faults)
        refuse(dataset.name, form.place(dataset.spec), faults.problems, ("error",), dataset.spec.remedy)
        _checked[dataset.name] = dataset


def check_files(records: Sequence[Record], missing: frozenset[int], name: str, faults: Faults, decode: bool) -> None:
    """Examines the image file of every record.

    Args:
        missing: positions of records without a file, which are skipped.
        decode: decode every image, which finds truncated files; False reads only their headers.
    """
    present = [record for i, record in enumerate(records) if i not in missing]
    results = in_threads(lambda record: image_size(Path(record["file_name"]), decode), present, f"images of {name}")
    for record, found in zip(present, results, strict=True):
        label, stated = _named(record), (record["width"], record["height"])
        if isinstance(found, str):
            faults.error("image cannot be read", f"{label} ({found})")
        elif found is None:
            faults.error(
                "image of more than 8 bits per pixel, which Detectron2's reader clips; convert it to 8 bits",
                label,
            )
        elif found != stated:
            faults.error(
                "image size differs from its annotation; correct the annotation",
                f"{label} is {found[0]}x{found[1]}, annotated {stated[0]}x{stated[1]}",
            )


def _named(record: Record) -> str:
    """Returns an image's id, with its file where the id does not say it, as in COCO."""
    number, file = str(record["image_id"]), Path(record["file_name"])
    return number if number == file.stem else f"{number} '{one_line(file.name)}'"


def image_size(path: Path, decode: bool) -> tuple[int, int] | str | None:
    """Returns (width, height) after EXIF rotation, or why the file cannot be read, or None for more than 8 bits."""
    try:
        with opened(path) as image:
            if is_deep(image):
                return None
            if decode:
                image.load()
            return ImageOps.exif_transpose(image).size if image.getexif().get(0x0112, 1) != 1 else image.size
    except ImageFileError as error:
        return one_line(error.reason)
