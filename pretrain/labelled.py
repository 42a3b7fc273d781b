"""Images with class labels, for evaluation only: a folder per class, the two views of the protocol, top-k accuracy."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms as T
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from pretrain.augment import MEAN, STD
from pretrain.images import ImageFiles
from pretrain.runtime.config import ConfigError


@dataclass(frozen=True)
class LabelledImages:
    """A labelled set, in torchvision's ImageFolder order: by class, then by path.

    Attributes:
        files: n images.
        labels: (n,) int64, positions in `classes`.
        classes: names of the class folders, sorted.
    """

    files: ImageFiles
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """Hex digest (16 digits) of names, which say the class, in order: equal wherever the folder lies."""
        text = "\0".join((*self.classes, self.files.digest()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def subset(self, limit: int) -> LabelledImages:
        """At most `limit` images (0: all), evenly spaced, so that every class keeps its share."""
        if not 0 < limit < len(self):
            return self
        chosen = np.arange(limit) * len(self) // limit
        return LabelledImages(ImageFiles(self.files.root, self.files.names[chosen]), self.labels[chosen], self.classes)


def find_labelled(folder: str | os.PathLike[str], key: str) -> LabelledImages:
    """The images under `folder/<class>/`, at any depth.

    Args:
        key: config key or option that gave the folder, for errors.

    Raises:
        ConfigError: no such folder, no class folders, or one without images.
    """
    root = Path(os.path.expandvars(os.path.expanduser(os.fspath(folder))))
    if not root.is_dir():
        raise ConfigError(f"{key} '{root}' is no folder; give one that holds a folder of images per class")
    try:
        classes, numbers = find_classes(str(root))
        samples = make_dataset(str(root), numbers, extensions=IMG_EXTENSIONS)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key} '{root}' must hold a folder of images per class: {reason}") from error
    names = np.array([os.fsencode(os.path.relpath(path, root)) for path, _ in samples])
    return LabelledImages(ImageFiles(str(root), names), np.array([label for _, label in samples]), tuple(classes))


def find_pair(train: str | os.PathLike[str], val: str | os.PathLike[str]) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation set, DATA.TRAIN and DATA.VAL.

    Raises:
        ConfigError: see `find_labelled`; also if the class folders differ, because labels would then mean two things.
    """
    sets = find_labelled(train, "DATA.TRAIN"), find_labelled(val, "DATA.VAL")
    if different := sorted(set(sets[0].classes) ^ set(sets[1].classes)):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise ConfigError(
            f"DATA.TRAIN has {len(sets[0].classes)} classes and DATA.VAL {len(sets[1].classes)}; only one of them has "
            f"{', '.join(different[:3])}{more}. Labels are positions among the sorted class folders: make them equal"
        )
    return sets


def augmented_view(crop_size: int = 224, scale: tuple[float, float] = (0.08, 1.0)) -> T.Compose:
    """Augmented: RGB PIL image -> 3 x crop_size x crop_size, a random crop of `scale` of the area, flipped or not."""
    crop = T.RandomResizedCrop(crop_size, scale=tuple(scale))
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


def central_view(resize: int = 256, crop_size: int = 224) -> T.Compose:
    """Without randomness: RGB PIL image -> 3 x crop_size x crop_size, the centre once the short side is `resize`."""
    return T.Compose([T.Resize(resize), T.CenterCrop(crop_size), T.ToTensor(), T.Normalize(MEAN, STD)])


def top_k_hits(scores: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 5)) -> Tensor:
    """Whether the label is among the k best classes: scores (N x classes), labels (N) -> bool (N x len(ks)).

    With fewer than k classes every label is.
    """
    best = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices  # N x max(ks)
    right = best == labels.unsqueeze(1)
    return torch.stack([right[:, :k].any(dim=1) for k in ks], dim=1)
