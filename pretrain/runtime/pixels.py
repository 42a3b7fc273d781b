"""The one way from an opened image to pixels that both halves of the project share."""

from __future__ import annotations

import numpy as np
from PIL import Image


def is_deep(image: Image.Image) -> bool:
    """Tells whether a pixel has more than 8 bits: Pillow's modes I;16, I;16B, I and F."""
    return image.mode[:1] in ("I", "F")


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts to 8 bits of red, green and blue; of an animation, the first frame.

    Transparency is dropped, as in torchvision's loader. 16 bits of grey are scaled: Pillow alone would clip them, which
    leaves white wherever a value is above 255 of 65535.

    Raises:
        ValueError: 32-bit pixels, whose range no format states.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # PPM, old Pillow: I
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if is_deep(image):
        raise ValueError(f"32-bit pixels, mode {image.mode}, have no known range; convert them to 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns at every image otherwise
    return image.convert("RGB")
