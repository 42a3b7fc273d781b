"""Reads the pixels that networks see, the same on both engines."""

from __future__ import annotations

import os

import numpy as np
from PIL import ImageOps

from pretrain.runtime.pixels import ImageFileError, opened, to_rgb
from transfer.data.spec import DatasetError


def read_image(path: str | os.PathLike[str], channel_order: str) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8 in "RGB" or "BGR" order, turned upright by its EXIF orientation.

    Raises:
        DatasetError: the file is missing or is not a readable image.
    """
    try:
        with opened(path) as image:
            pixels = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except ImageFileError as error:
        raise DatasetError(str(error)) from error
    return pixels[:, :, ::-1] if channel_order == "BGR" else pixels
