"""Images with class labels, for evaluation and supervised pre-training: class folders, views, top-k accuracy."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms as T
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.augment import MEAN, STD
from pretrain.images import ImageFiles, image_files
from pretrain.runtime.config import ConfigError
from pretrain.runtime.folders import read_tree


@dataclass(frozen=True)
class LabelledImages:
    """A labelled set, in torchvision's ImageFolder order: by class, then by path. It is `images.Images` too.

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

    @property
    def notes(self) -> Sequence[str]:
        return self.files.notes

    def name(self, index: int) -> str:
        return self.files.name(index)

    def read(self, index: int) -> bytes:
        return self.files.read(index)

    def digest(self) -> str:
        """Hex digest (16 digits) of names, which say the class, in order: equal wherever the folder lies."""
        text = "\0".join((*self.classes, self.files.digest()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def subset(self, limit: int) -> LabelledImages:
        """At most `limit` images (0: all), evenly spaced, so that every class keeps its share."""
        if not 0 < limit < len(self):
            return self
        chosen = np.arange(limit) * len(self) // limit
        files = dataclasses.replace(self.files, names=self.files.names[chosen])
        return LabelledImages(files, self.labels[chosen], self.classes)


def find_labelled(folder: str | os.PathLike[str], key: str) -> LabelledImages:
    """The images under `folder/<class>/`, at any depth; hidden folders are no classes, nor are links to read ones.

    Args:
        key: config key or option that gave the folder, for errors.

    Raises:
        ConfigError: no such folder, no class folders, one without images, or one that holds `train` and `val`.
    """
    root = Path(os.path.expandvars(os.path.expanduser(os.fspath(folder))))
    if not root.is_dir():
        raise ConfigError(f"{key} '{root}' is no folder; give one that holds a folder of images per class")
    if (root / "train").is_dir() and (root / "val").is_dir():
        raise ConfigError(f"{key} '{root}' holds train and val, which are no classes; give one of them")
    try:
        tree = read_tree(root, IMG_EXTENSIONS)
    except OSError as error:
        raise ConfigError(f"{key} '{root}' cannot be read: {error}") from error
    classes = [name for name in tree.folders if name and os.sep not in name]
    names = sorted((name for name in tree.files if os.sep in name), key=_by_class)
    kept_out = "".join(f"; {note}" for note in tree.notes(root))
    if not classes:
        raise ConfigError(f"{key} '{root}' must hold a folder of images per class, but it holds no folder{kept_out}")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name.partition(os.sep)[0]] for name in names], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(classes))
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise ConfigError(
            f"{key} '{root}' must hold a folder of images per class, but there is none ({' '.join(IMG_EXTENSIONS)}) in "
            f"{', '.join(empty[:3])}{more}: remove what is no class{kept_out}"
        )
    return LabelledImages(image_files(root, names, tree.notes(root)), labels, tuple(classes))


def _by_class(name: str) -> tuple[str, str, str]:
    folder, file = os.path.split(name)
    return name.partition(os.sep)[0], folder, file


def find_pair(
    train: str | os.PathLike[str], val: str | os.PathLike[str], keys: tuple[str, str] = ("DATA.TRAIN", "DATA.VAL")
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation set.

    Args:
        keys: config keys that gave the folders, for errors.

    Raises:
        ConfigError: see `find_labelled`; also if the class folders differ, because labels would then mean two things.
    """
    sets = find_labelled(train, keys[0]), find_labelled(val, keys[1])
    if different := sorted(set(sets[0].classes) ^ set(sets[1].classes)):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise ConfigError(
            f"{keys[0]} has {len(sets[0].classes)} classes and {keys[1]} {len(sets[1].classes)}; only one of them has "
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
