"""Makes index maps from the palettes, MATLAB files and label ids that VOC 2012, SBD and Cityscapes ship.

Every map is written whole or not at all, and an existing one is not made again, so a killed call can be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.pixels import ImageFileError, opened
from transfer.data.semantic_sets import CITYSCAPES_IDS, IMAGES
from transfer.data.spec import DatasetError, few
from transfer.data.threads import in_threads

IGNORED = 255
_SBD = "http://home.bharathh.info/pubs/codes/SBD/download.html"


def prepare_voc_aug(voc: Path, sbd: Path, expected: int = IMAGES["voc_2012_sem_seg_train_aug"]) -> tuple[int, int]:
    """Writes VOC 2012's maps, and SBD's for images without one in VOC, to `voc`/SegmentationClassAug.

    The set train_aug holds the images that SBD or VOC's own train set annotates, without VOC's val set; if both have a
    map, VOC's counts. The list of the set is written last.

    Args:
        voc: the folder VOC2012 of the devkit.
        sbd: SBD's `dataset` folder, or the one around it.
        expected: the number of images that train_aug must have.

    Returns:
        The numbers of images of train_aug and val.

    Raises:
        DatasetError: a folder, a file or a map is missing or not as it should be, or the number of images is another.
    """
    sbd = sbd / "dataset" if (sbd / "dataset").is_dir() else sbd
    train, val = (_listed(voc / "ImageSets" / "Segmentation" / f"{split}.txt") for split in ("train", "val"))
    extra = {stem for split in ("train", "val") for stem in _listed(sbd / f"{split}.txt")}
    both = sorted((set(train) | extra) - set(val))
    if len(both) != expected:
        raise DatasetError(
            f"'{sbd}' and '{voc}' give {len(both)} images of train_aug, not {expected}; take the whole VOC 2012 and "
            f"SBD's train.txt and val.txt ({_SBD})"
        )
    own = {*train, *val}
    from_sbd = [stem for stem in both if stem not in own]
    target = voc / "SegmentationClassAug"
    sources = [voc / "SegmentationClass" / f"{stem}.png" for stem in sorted(own)]
    _convert(sources, lambda path: target / path.name, _of_palette, "VOC 2012")
    _convert([sbd / "cls" / f"{stem}.mat" for stem in from_sbd], lambda p: target / f"{p.stem}.png", _of_mat, "SBD")
    with atomic_write(voc / "ImageSets" / "Segmentation" / "train_aug.txt", "w") as f:
        f.write("".join(f"{stem}\n" for stem in both))
    return len(both), len(val)


def prepare_cityscapes(root: Path, expected: Sequence[int] | None = None) -> tuple[int, int]:
    """Writes `*_gtFine_labelTrainIds.png` beside every `*_gtFine_labelIds.png` of train and val.

    Args:
        root: the folder with gtFine and leftImg8bit.
        expected: the numbers of images that train and val must have; None takes the official ones.

    Returns:
        The numbers of maps of train and val.

    Raises:
        DatasetError: maps are missing or do not hold label ids.
    """
    ends = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
    wanted = expected or [IMAGES[f"cityscapes_fine_sem_seg_{split}"] for split in ("train", "val")]
    found = []
    for split, count in zip(("train", "val"), wanted, strict=True):
        sources = sorted((root / "gtFine" / split).glob(f"*/*{ends[0]}"))
        if len(sources) != count:
            raise DatasetError(
                f"'{root / 'gtFine' / split}' holds {len(sources)} files */*{ends[0]}, not {count}; unpack the whole "
                "gtFine_trainvaltest.zip there"
            )
        found.append(sources)
    for split, sources in zip(("train", "val"), found, strict=True):
        _convert(sources, lambda p: p.with_name(p.name.replace(*ends)), _of_label_ids, f"Cityscapes {split}")
    return len(found[0]), len(found[1])


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise DatasetError(f"'{path}' does not exist; unpack the whole VOC 2012, and name SBD's folder ({_SBD})")
    return path.read_text().split()


def _convert(
    sources: Sequence[Path], target: Callable[[Path], Path], read: Callable[[Path], np.ndarray], what: str
) -> None:
    """Makes the maps that do not exist yet, and the folder of the targets."""
    missing = [path for path in sources if not target(path).is_file()]
    if absent := [path for path in missing if not path.is_file()]:
        raise DatasetError(f"{len(absent)} files are not there: {few(absent)}")

    def make(path: Path) -> None:
        ids = read(path)
        with atomic_write(target(path)) as f:
            Image.fromarray(ids).save(f, "PNG")

    for folder in {target(path).parent for path in missing}:
        os.makedirs(folder, exist_ok=True)
    for _ in in_threads(make, missing, f"maps of {what}"):
        pass


def _of_palette(path: Path) -> np.ndarray:
    """Reads every pixel's index in the palette, 0 to 20 or 255, as (H, W) uint8."""
    ids = _pixels(path, ("P", "L"))
    return _checked(ids, path, ids <= 20)


def _of_label_ids(path: Path) -> np.ndarray:
    """Reads every pixel's train id, 255 for label ids that are not evaluated, as (H, W) uint8."""
    ids = _pixels(path, ("L",))
    table = np.full(256, IGNORED, np.uint8)
    table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return table[_checked(ids, path, ids <= 33)]


def _of_mat(path: Path) -> np.ndarray:
    """Reads the segmentation by class in a MATLAB file of SBD as (H, W) uint8."""
    try:
        found: Any = loadmat(str(path))["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # scipy raises ValueError, KeyError, struct.error, ... on damaged files
        raise DatasetError(f"cannot read SBD's '{path}': {error}") from error
    ids = np.asarray(found, np.uint8)
    return _checked(ids, path, ids <= 20)


def _pixels(path: Path, modes: Sequence[str]) -> np.ndarray:
    try:
        with opened(path, formats=["PNG"]) as image:
            if image.mode not in modes:
                raise DatasetError(f"'{path}' is a PNG of mode {image.mode}, not of ids ({', '.join(modes)})")
            return np.asarray(image)
    except ImageFileError as error:
        raise DatasetError(f"cannot read '{path}': {error.reason}") from error


def _checked(ids: np.ndarray, path: Path, known: np.ndarray) -> np.ndarray:
    """Returns the ids if every one is known or ignored."""
    outside = np.unique(ids[~known & (ids != IGNORED)])
    if len(outside):
        raise DatasetError(f"'{path}' holds ids that are no class: {few(outside)}")
    return ids
