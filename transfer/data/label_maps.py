"""Reads a file of class ids: an 8-bit grey PNG whose pixels are the classes of an image's pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pretrain.runtime.pixels import ImageFileError, opened
from transfer.data.spec import DatasetError, one_line

_INDEX = "make an 8-bit grey PNG of class ids of it"
_MODES = {
    "P": "a palette PNG, whose colours Detectron2 reads as grey; datasets/prepare_voc_aug.py makes index maps of VOC's",
    "1": f"a PNG of 1 bit, which is read as 0 and 255; {_INDEX}",
    "LA": f"a PNG with transparency; {_INDEX}",
    "RGB": f"a 24-bit PNG, whose colours are no class ids; {_INDEX} (datasets/prepare_voc_aug.py does for VOC)",
    "RGBA": f"a 32-bit PNG, whose colours are no class ids; {_INDEX} (datasets/prepare_voc_aug.py does for VOC)",
}


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the (H, W) uint8 class ids of a map.

    Raises:
        DatasetError: the file is missing or is not an 8-bit map.
    """
    try:
        with opened(path) as image:
            if (fault := _fault(image)) is not None:
                raise DatasetError(f"'{path}' is {fault}")
            return np.asarray(image)
    except ImageFileError as error:
        raise DatasetError(f"cannot read label map '{path}': {error.reason}") from error


def header(image: Path, label: Path) -> tuple[tuple[int, int] | None, tuple[str, str] | None]:
    """Returns an image's (width, height) after EXIF rotation, and what is wrong with image or map, and where."""
    try:
        with opened(image) as picture:
            size = ImageOps.exif_transpose(picture).size if picture.getexif().get(0x0112, 1) != 1 else picture.size
    except ImageFileError as error:
        return None, ("image cannot be read", f"{image} ({one_line(error.reason)})")
    try:
        with opened(label) as found:
            fault, of = _fault(found), found.size
    except ImageFileError as error:
        return size, ("label map cannot be read", f"{label} ({one_line(error.reason)})")
    if fault is not None:
        return size, (f"label map is {fault}", str(label))
    if of != size:
        sizes = f"{label} is {of[0]}x{of[1]}, its image {size[0]}x{size[1]}"
        return size, ("label map of another size than its image", f"{sizes} (width x height)")
    return size, None


def _fault(label: Image.Image) -> str | None:
    """Returns why an opened file is not a map of 8-bit class ids; None if it is one."""
    if label.format != "PNG":
        return f"a {label.format} file; {_INDEX}"
    if label.mode[:1] in ("I", "F"):
        return f"a 16-bit PNG, of which Detectron2 reads 8 bits; {_INDEX}"
    return None if label.mode == "L" else _MODES.get(label.mode, f"a PNG of mode {label.mode}; {_INDEX}")


def histogram(label: Path) -> np.ndarray | str:
    """Returns the number of pixels of each value, (256,), or why the file cannot be read."""
    try:
        return np.bincount(read_labels(label).ravel(), minlength=256)
    except DatasetError as error:
        return one_line(str(error))
