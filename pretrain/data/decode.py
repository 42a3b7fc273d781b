"""Decodes the bytes of an image file to pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.opencv import cv2
from pretrain.runtime.pixels import MAX_PIXELS, ImageFileError, opened, to_rgb


class BadImageError(ExpectedError, RuntimeError):
    """An image that cannot be read; the message names its path."""


def decode(data: bytes, name: str) -> Image.Image:
    """Decodes an image to RGB. An EXIF orientation is not applied, as in torchvision's ImageFolder.

    Args:
        data: the bytes of a whole image file, in one of `pixels.FORMATS`.
        name: where the bytes come from, for errors.

    Raises:
        BadImageError: the image cannot be decoded, for whatever reason.
    """
    try:
        with opened(data, name) as image:
            return to_rgb(image)
    except ImageFileError as error:
        raise BadImageError(f"cannot read image '{name}' ({error.reason if data else 'it is empty'})") from error


def decode_array(data: bytes, name: str) -> np.ndarray:
    """Decodes an image to an array, H x W x 3, uint8. Ordinary JPEGs go to OpenCV, which gives the same pixels sooner.

    A JPEG cut short is an error, as in Pillow. Both decoders read past damage in the middle of a file where they can;
    OpenCV accepts a little more of it.

    Raises:
        BadImageError: see `decode`.
    """
    if is_ordinary_jpeg(data):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            image = None
        if image is not None:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    return np.array(decode(data, name))


def is_ordinary_jpeg(data: bytes) -> bool:
    """Returns whether a JPEG is grey or colour, has 8 bits, is not oversized, and ends as a whole JPEG does.

    CMYK does not count as ordinary, because decoders disagree about it.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return False
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive: bits, height, width, components
            pixels = int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
            return data[at + 4] == 8 and data[at + 9] in (1, 3) and pixels <= MAX_PIXELS
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
