"""Keeps small training sets in memory: decodes every image once, into a block of pixels that loader processes share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from pretrain.data.decode import BadImageError
from pretrain.data.images import Images
from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import progress
from pretrain.runtime.pixels import ImageFileError, opened

LOG = logging.getLogger(__name__)

GB = 1e9


class DecodedImages:
    """Holds the pixels that a decoder gives for each image of a set, bit for bit. They are decoded in the constructor.

    Forked processes (a loader's, on Linux) share the block, because nobody writes to it; each training process of a
    machine has a block of its own.

    Args:
        files: the images.
        decoder: an image file and its name -> an RGB image.
        wrap: turns pixels (H x W x 3, uint8, read-only) into what the decoder would have returned.
        limit: gigabytes (10^9 bytes) that all pixels may take; checked before anything is decoded.

    Attributes:
        bad: the reason for each image that cannot be read, by its number.

    Raises:
        ConfigError: the set is larger than `limit` or this machine's memory, or the size of an image differs from that
            in its header.
    """

    def __init__(
        self, files: Images, decoder: Callable[[bytes, str], Any], wrap: Callable[[np.ndarray], Any], limit: float
    ):
        shapes = _shapes(files, limit)  # n x 2
        self._wrap, self._shapes = wrap, shapes
        self._ends = np.cumsum(3 * shapes.prod(axis=1))
        self._pixels = np.empty(int(self._ends[-1]), np.uint8)
        self.bad: dict[int, str] = {}
        with progress(len(files), "decoding", unit="img", disable=not dist.is_main()) as bar:
            for index in range(len(files)):
                try:
                    pixels = np.asarray(decoder(files.read(index), files.name(index)))
                except BadImageError as error:
                    self.bad[index] = str(error)
                else:
                    self._keep(index, pixels, files)
                bar.update()
        self._pixels.flags.writeable = False
        LOG.info("DATA.CACHE: %d decoded images are in memory, %.3g GB", len(files), len(self._pixels) / GB)

    def _keep(self, index: int, pixels: np.ndarray, files: Images) -> None:
        height, width = self._shapes[index]
        if pixels.shape != (height, width, 3):
            raise ConfigError(
                f"DATA.CACHE: image '{files.name(index)}' has {pixels.shape[1]} x {pixels.shape[0]} pixels, its header "
                f"says {width} x {height}; remove it, or set DATA.CACHE 0"
            )
        self._block(index)[...] = pixels

    def _block(self, index: int) -> np.ndarray:
        height, width = self._shapes[index]
        end = int(self._ends[index])
        return self._pixels[end - 3 * height * width : end].reshape(height, width, 3)

    def __getitem__(self, index: int) -> Any:
        """Returns what the decoder gave for an image.

        Raises:
            BadImageError: the decoder raised one.
        """
        if index in self.bad:
            raise BadImageError(self.bad[index])
        return self._wrap(self._block(index))


def _shapes(files: Images, limit: float) -> np.ndarray:
    """Returns each image's height and width by its header: n x 2 int64, with 0 x 0 for what decoding will refuse.

    Headers are read in a random order, so that a set far above the limit is refused after only a part has been read.

    Raises:
        ConfigError: all images together are above the limit, or above this machine's memory.
    """
    shapes, needed = np.zeros((len(files), 2), np.int64), 0
    order = np.random.default_rng(0).permutation(len(files))
    with progress(len(files), "reading sizes", unit="img", disable=not dist.is_main()) as bar:
        for seen, index in enumerate(order.tolist(), start=1):
            shapes[index] = _shape(files, index)
            needed += 3 * int(shapes[index].prod())
            if needed > limit * GB:
                about = needed / GB * len(files) / seen
                raise ConfigError(
                    f"DATA.CACHE is {limit:g} GB, but the {len(files)} images of DATA.TRAIN need about {about:.3g} GB "
                    f"once decoded; set DATA.CACHE {1.1 * about:.2g} if every training process has that much memory, "
                    "or 0 to decode images when they are used"
                )
            bar.update()
    memory, processes = _memory(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes * needed > memory:
        raise ConfigError(
            f"DATA.CACHE: the decoded images need {needed / GB:.3g} GB in each of {processes} training processes, and "
            f"this machine has {memory / GB:.3g} GB of memory; set DATA.CACHE 0"
        )
    return shapes


def _shape(files: Images, index: int) -> tuple[int, int]:
    try:
        with opened(files.read(index)) as image:
            return image.height, image.width
    except (BadImageError, ImageFileError):  # decoding meets it too, and names it
        return 0, 0


def _memory() -> int:
    """Returns the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
