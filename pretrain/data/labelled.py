"""Finds images with class labels, in class folders or by a file of labels; makes their views and counts top-k hits."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms as T
from torchvision.datasets.folder import IMG_EXTENSIONS

from pretrain.data.augment import MEAN, STD
from pretrain.data.images import ImageFiles, image_files
from pretrain.data.label_files import SUFFIXES, composed, read_label_file
from pretrain.runtime.config import ConfigError
from pretrain.runtime.folders import read_tree

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImages:
    """Holds a labelled set in torchvision's ImageFolder order: by class, then by path. It is an `images.Images`, too.

    Attributes:
        files: the n images.
        labels: (n,) int64, positions in `classes`.
        classes: the names of the classes: sorted names of class folders, or those of `label_files`.
        places: where a file first names each class; empty for class folders.
    """

    files: ImageFiles
    labels: np.ndarray
    classes: tuple[str, ...]
    places: tuple[str, ...] = ()

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
        """Returns a hex digest (16 digits) of names and classes in order, the same wherever the folder lies."""
        said = hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()  # by the names too, in class folders
        text = "\0".join((*self.classes, self.files.digest(), *([said] if self.places else [])))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def subset(self, limit: int) -> LabelledImages:
        """Returns at most `limit` images (0: all), evenly spaced, so that every class keeps its share."""
        if not 0 < limit < len(self):
            return self
        chosen = np.arange(limit) * len(self) // limit
        files = dataclasses.replace(self.files, names=self.files.names[chosen])
        return dataclasses.replace(self, files=files, labels=self.labels[chosen])

    def in_order_of(self, classes: tuple[str, ...]) -> LabelledImages:
        """Returns the same images with labels that are positions in `classes`, the same names in another order."""
        if classes == self.classes:
            return self
        new, old = ({name: number for number, name in enumerate(names)} for names in (classes, self.classes))
        labels = np.array([new[name] for name in self.classes])[self.labels]
        places = tuple(self.places[old[name]] for name in classes) if self.places else ()
        return LabelledImages(self.files, labels, classes, places)


def find_labelled(source: str | os.PathLike[str], key: str) -> LabelledImages:
    """Finds the images under `source/<class>/`, at any depth, or those of a file of labels (see `label_files`).

    Hidden folders are not classes, and neither are links to folders that have been read already.

    Args:
        key: the config key or option that gave the source, for errors.

    Raises:
        ConfigError: the source does not exist, has no class folders, has one without images, or holds `train` and
            `val`; for files, see `label_files.read_label_file`.
    """
    root = Path(os.path.expandvars(os.path.expanduser(os.fspath(source))))
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return _from_file(root, key)
    if not root.is_dir():
        state = "is no folder" if root.exists() else "does not exist"
        raise ConfigError(
            f"{key} '{root}' {state}; give one that holds a folder of images per class, a .txt list of `path "
            "label`, or a .json as iNaturalist's"
        )
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


def _from_file(path: Path, key: str) -> LabelledImages:
    found = read_label_file(path, key)
    entries = sorted(found.entries, key=lambda e: (e.label, *os.path.split(e.name)))
    files = image_files(path.parent, [e.name for e in entries], found.notes)
    return LabelledImages(files, np.array([e.label for e in entries], dtype=np.int64), found.classes, found.places)


def _by_class(name: str) -> tuple[str, str, str]:
    folder, file = os.path.split(name)
    return name.partition(os.sep)[0], folder, file


def find_pair(
    train: str | os.PathLike[str], val: str | os.PathLike[str], keys: tuple[str, str] = ("DATA.TRAIN", "DATA.VAL")
) -> tuple[LabelledImages, LabelledImages]:
    """Finds a training and a validation set; the labels of both are positions in the classes of the training set.

    Images that are in both sets are noted and warned of, because they make the accuracy too high.

    Args:
        keys: the config keys that gave the sets, for errors.

    Raises:
        ConfigError: see `find_labelled`; also if the classes differ, because labels would then mean two things.
    """
    sets = find_labelled(train, keys[0]), find_labelled(val, keys[1])
    if different := sorted(set(sets[0].classes) ^ set(sets[1].classes)):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        where = {
            name: f" ({place})" for images in sets for name, place in zip(images.classes, images.places, strict=False)
        }
        named = ", ".join(name + where.get(name, "") for name in different[:3])
        alike = len(different) > len(set(map(composed, different)))
        form = " (some differ in nothing but the Unicode form of their accents)" if alike else ""
        raise ConfigError(
            f"{keys[0]} has {len(sets[0].classes)} classes and {keys[1]} {len(sets[1].classes)}; only one of them has "
            f"{named}{more}{form}. Labels are positions among the sorted classes: make them equal"
        )
    train_set, val_set = sets[0], sets[1].in_order_of(sets[0].classes)
    if both := in_both(train_set, val_set):
        note = (
            f"{len(both)} of {len(val_set)} images of {keys[1]} are in {keys[0]} too, such as '{both[0]}': "
            "accuracy is too high for that"
        )
        LOG.warning(note)
        files = dataclasses.replace(val_set.files, notes=(*val_set.files.notes, note))
        val_set = dataclasses.replace(val_set, files=files)
    return train_set, val_set


def in_both(a: LabelledImages, b: LabelledImages) -> list[str]:
    """Returns the printable paths of the images of `b` that are in `a` under the same path."""
    first, second = (os.fsencode(os.path.realpath(images.files.root)) for images in (a, b))
    if first != second and not first.startswith(second + b"/") and not second.startswith(first + b"/"):
        return []
    paths = {os.path.join(second, name): number for number, name in enumerate(b.files.names.tolist())}
    found = (paths.get(os.path.join(first, name)) for name in a.files.names.tolist())
    return [b.name(number) for number in sorted(number for number in found if number is not None)]


def augmented_view(crop_size: int = 224, scale: tuple[float, float] = (0.08, 1.0)) -> T.Compose:
    """Returns the transform of training: RGB PIL image -> 3 x crop_size x crop_size.

    It crops at random to a share of the area within `scale`, and flips at random.
    """
    crop = T.RandomResizedCrop(crop_size, scale=tuple(scale))
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


def central_view(resize: int = 256, crop_size: int = 224) -> T.Compose:
    """Returns the transform of evaluation, without randomness: RGB PIL image -> 3 x crop_size x crop_size.

    It takes the centre once the short side is `resize` pixels.
    """
    return T.Compose([T.Resize(resize), T.CenterCrop(crop_size), T.ToTensor(), T.Normalize(MEAN, STD)])


def top_k_hits(scores: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 5)) -> Tensor:
    """Returns whether the label is among the k best classes: scores (N x classes), labels (N) -> bool (N x len(ks)).

    With fewer than k classes every label is among them.
    """
    best = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices  # N x max(ks)
    right = best == labels.unsqueeze(1)
    return torch.stack([right[:, :k].any(dim=1) for k in ks], dim=1)
