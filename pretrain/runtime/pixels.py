"""Turns image files into pixels, in the same way for both halves of the project."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.files import open_regular

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, by Pillow's names: pixels alone. Of its other formats some start programs (EPS: Ghostscript)."""
MAX_PIXELS = 2 * (1 << 30) // 12  # of an image, where Pillow's own limit lies: decoded, 0.5 GB


class ImageFileError(ExpectedError, ValueError):
    """A file that is not a readable image; the message names it.

    Attributes:
        reason: what is wrong, without the name.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"cannot read image '{name}' ({reason})")
        self.reason = reason


@contextmanager
def opened(
    source: str | os.PathLike[str] | bytes, name: str = "", formats: Sequence[str] = FORMATS
) -> Iterator[Image.Image]:
    """Opens an image for a block that decodes it; errors raised in the block count as faults of the file, too.

    Args:
        source: a regular file, or the bytes of one.
        name: what errors call the image, if not by its path.
        formats: the formats that are allowed, by Pillow's names.

    Raises:
        ImageFileError: it is no regular file, has another format or more than MAX_PIXELS, or is damaged or cut short.
    """
    name = name or ("bytes" if isinstance(source, bytes) else os.fspath(source))
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
            with Image.open(file, formats=tuple(formats)) as image:
                check_size(*image.size)
                yield image
    except (ExpectedError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(formats[:-1]) + f" or {formats[-1]}" if len(formats) > 1 else formats[0]
        raise ImageFileError(name, f"it is no {known} file, or damaged at its beginning") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on damaged files
        said = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise ImageFileError(name, said) from error


def check_size(width: int, height: int) -> None:
    """Raises ValueError for an image that claims more pixels than any photograph has."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"its header claims {width} x {height} pixels; at most {MAX_PIXELS} are decoded")


def is_deep(image: Image.Image) -> bool:
    """Returns whether a pixel has more than 8 bits: Pillow's modes I;16, I;16B, I and F."""
    return image.mode[:1] in ("I", "F")


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to 8 bits of red, green and blue; of an animation it takes the first frame.

    Transparency is dropped, as in torchvision's loader. 16-bit grey is scaled to 8 bits: Pillow alone would clip it,
    which leaves white wherever a value is above 255 of 65535.

    Raises:
        ValueError: the pixels have 32 bits, for which no format states the range of values.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # PPM, old Pillow: I
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if is_deep(image):
        raise ValueError(f"32-bit pixels, mode {image.mode}, have no known range; convert them to 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns at every image otherwise
    return image.convert("RGB")
