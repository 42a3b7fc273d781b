"""Decides how large images are when features are evaluated: by default, as large as when the trunk was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from pretrain.runtime import checkpoint
from pretrain.runtime.config import ConfigError

RESIZE, CROP = 256, 224  # of the papers: short side, and the central crop of it
LEAST_SHARE = 0.75  # of the short side: a central crop that shows less gets a caution


class ViewSize(NamedTuple):
    """Holds the pixels of the short side and of the central crop, and the reason for this size."""

    resize: int
    crop: int
    why: str


def resize_for(crop: int) -> int:
    """Returns the short side for a crop, in the papers' proportion: 256 for a crop of 224."""
    return round(crop * RESIZE / CROP)


def view_size(weights: str | os.PathLike[str], resize: int | None = None, crop: int | None = None) -> ViewSize:
    """Returns the size of images for a checkpoint's features.

    Args:
        resize, crop: what the user asks for. By default, `crop` is AUG.CROP_SIZE of the checkpoint's config, which only
            our checkpoints hold, and 224 for others; `resize` follows from the crop.

    Raises:
        ConfigError: a size is below 1, or the crop does not fit into the image and would be padded.
        CheckpointError: `weights` cannot be read.
    """
    for name, value in {"crop": crop, "resize": resize}.items():
        if value is not None and value < 1:
            raise ConfigError(f"the {name} is {value}; it must be at least 1")
    why = "as asked for"
    if crop is None:
        crop = trained_crop(checkpoint.load(weights))
        why = "the size that the checkpoint was trained at (AUG.CROP_SIZE)"
        if crop is None:
            crop, why = CROP, "the papers' size, because the checkpoint does not say at which it was trained"
    resize = resize_for(crop) if resize is None else resize
    if resize < crop:
        raise ConfigError(
            f"the resize {resize} is below the crop {crop} ({why}), which would be padded; take at least {crop}, or "
            f"{resize_for(crop)} as the papers"
        )
    return ViewSize(resize, crop, why)


def cautions(weights: str | os.PathLike[str], crop: int) -> list[str]:
    """Returns a caution if a frozen trunk gets images in another size than it was trained at; else nothing."""
    own = trained_crop(checkpoint.load(weights))
    if own is None or own == crop:
        return []
    return [
        f"the trunk was trained at AUG.CROP_SIZE {own} and looks at {crop} pixels here, which costs accuracy: its "
        f"features were not trained for objects of that size; AUG.CROP_SIZE {own} and AUG.RESIZE {resize_for(own)} (or "
        "0, which follows the crop) are its own"
    ]


def shown_share(resize: int, crop: int) -> list[str]:
    """Returns a caution if the central crop shows much less of the images than the papers' 224 of 256; else nothing."""
    if crop >= LEAST_SHARE * resize:
        return []
    return [
        f"the central crop of {crop} pixels shows {crop / resize:.0%} of the short side of {resize}, in the papers "
        f"{CROP / RESIZE:.0%} (224 of 256), so that objects may lie outside; resize to {resize_for(crop)} for this crop"
    ]


def trained_crop(content: Any) -> int | None:
    """Returns AUG.CROP_SIZE of the config that a checkpoint of ours holds; None for any other content."""
    for key in ("config", "AUG", "CROP_SIZE"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, int) and not isinstance(content, bool) and content > 0 else None
