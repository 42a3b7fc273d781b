"""Bytes of an image file -> pixels."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError


class BadImageError(RuntimeError):
    """An image that cannot be read; the message names its path."""


def decode(data: bytes, name: str) -> Image.Image:
    """Decodes to RGB. An EXIF orientation is not applied, as in torchvision's ImageFolder.

    Args:
        data: a whole image file of any format that Pillow knows.
        name: where the bytes come from, for errors.

    Raises:
        BadImageError: for whatever reason it cannot be decoded.
    """
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... on broken files
        reason = "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise BadImageError(f"cannot read image '{name}' ({reason})") from error
