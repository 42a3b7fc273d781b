"""Image files held against their annotations: readable, of the annotated size, of pixels that all readers take."""

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
    """Reads the header of every image of data sets, and annotations that are pixels, before a run does.

    Raises:
        DatasetError: images that cannot be read, or of another size than annotated, or of deep pixels, or maps
            with ids that are no class; all of a set.
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
    """Looks into the image file of every record.

    Args:
        missing: positions of records without a file, which are left out.
        decode: decode every image, which finds truncated files; False reads only their headers.
    """
    present = [record for i, record in enumerate(records) if i not in missing]
    results = in_threads(lambda record: image_size(Path(record["file_name"]), decode), present, f"images of {name}")
    for record, found in zip(present, results, strict=True):
        label, stated = str(record["image_id"]), (record["width"], record["height"])
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


def image_size(path: Path, decode: bool) -> tuple[int, int] | str | None:
    """(width, height) as a loader that obeys the EXIF orientation sees it; why it cannot be read; None: deep pixels."""
    try:
        with opened(path) as image:
            if is_deep(image):
                return None
            if decode:
                image.load()
            return ImageOps.exif_transpose(image).size if image.getexif().get(0x0112, 1) != 1 else image.size
    except ImageFileError as error:
        return one_line(error.reason)
