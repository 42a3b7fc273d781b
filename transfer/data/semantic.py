"""Reads maps of classes: every image has an 8-bit PNG whose pixels are class ids (an index map).

An image and its map share a *stem*: the image's path below its folder without the suffix. Cityscapes'
`aachen/aachen_000000_000019` is a stem, with `_leftImg8bit.png` as the images' suffix and `_gtFine_labelTrainIds.png`
as the maps'. Headers are read when a set is opened; ids need the pixels, which a run reads once
(`SemanticMaps.census`).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pretrain.runtime.folders import read_tree
from transfer.data.faults import Faults
from transfer.data.format import Contents, Format
from transfer.data.label_maps import header, histogram
from transfer.data.spec import DatasetError, DatasetSpec, Names, Record, Text, one_line, path_in
from transfer.data.stems import IMAGE_SUFFIXES, by_stem
from transfer.data.text_files import decoded
from transfer.data.threads import in_threads

MOST_CLASSES = 255  # ids of 8 bits, of which one is ignored


class _Split(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: Text
    labels: Text
    list: Text | None = None


class SemanticKeys(BaseModel):
    """Declares a spec file's keys; see datasets/README.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    root: Text
    classes: Names
    ignore_label: int = Field(default=255, ge=0, le=255)
    image_suffix: Text | None = None
    label_suffix: Text = ".png"
    splits: dict[Text, _Split] = Field(min_length=1)


@dataclass(frozen=True)
class Layout:
    """Says where the maps lie and what they mean.

    Attributes:
        labels: the folder of the maps.
        listed: a text file with one stem per line; None takes every image of the folder.
        image_suffix: suffix of the images; None takes all of `stems.IMAGE_SUFFIXES`, in upper or lower case.
        ignore_label: the value of pixels that are neither trained on nor scored.
    """

    labels: Path
    listed: Path | None = None
    image_suffix: str | None = None
    label_suffix: str = ".png"
    ignore_label: int = 255


class SemanticMaps(Format):
    """Reads this layout; see the module."""

    name = "semantic"
    keys = SemanticKeys
    set_aside = "ignored"
    counted = "pixels"
    absent = "no pixel of a listed class, whose IoU is then undefined"
    pixels = True

    def specs(self, keys: SemanticKeys, file: Path) -> list[DatasetSpec]:
        root = path_in(file.parent, keys.root)
        return [
            DatasetSpec(
                f"{keys.name}_{name}", "semantic", root, name, tuple(keys.classes),
                image_root=path_in(root, split.images),
                layout=Layout(
                    path_in(root, split.labels), None if split.list is None else path_in(root, split.list),
                    keys.image_suffix, keys.label_suffix, keys.ignore_label,
                ),
            )
            for name, split in keys.splits.items()
        ]  # fmt: skip

    def check_spec(self, spec: DatasetSpec) -> None:
        if not spec.classes or spec.image_root is None or not isinstance(spec.layout, Layout):
            raise DatasetError(f"dataset '{spec.name}': maps of classes need `classes`, and `images` and `labels`")
        if len(spec.classes) > MOST_CLASSES:
            raise DatasetError(
                f"dataset '{spec.name}': {len(spec.classes)} classes; maps of 8 bits hold at most {MOST_CLASSES}"
            )
        if (ignored := spec.layout.ignore_label) < len(spec.classes):
            raise DatasetError(
                f"dataset '{spec.name}': ignore_label is {ignored}, which is also the id of class "
                f"'{spec.classes[ignored]}'; give a value from {len(spec.classes)} to 255"
            )

    def place(self, spec: DatasetSpec) -> Path:
        return spec.layout.listed or _images(spec)

    def is_present(self, spec: DatasetSpec) -> bool:
        folder = spec.layout.labels
        return self.place(spec).exists() and any(
            name.endswith(spec.layout.label_suffix) for _, _, names in os.walk(folder) for name in names
        )

    def sources(self, spec: DatasetSpec) -> Iterable[Path]:
        yield self.place(spec)
        for folder in (_images(spec), spec.layout.labels):
            if folder.is_dir():
                yield from (folder / below for below in read_tree(folder, ("\0",)).folders)
        if spec.layout.labels.is_dir():
            yield from (spec.layout.labels / name for name in _named(spec.layout.labels, spec.layout.label_suffix))

    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        return ("miou",)

    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        found = _Files(spec)
        stems = found.wanted()
        maps = [hashlib.sha256(p.read_bytes() if (p := found.label(s)).is_file() else b"").digest() for s in stems]
        content = b"\0".join([repr(spec.layout.ignore_label).encode(), "\n".join(stems).encode(), *maps])
        names = [found.images.get(stem, stem) for stem in stems]
        return content, [(name, found.folder / name) for name in names]

    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        found, classes = _Files(spec), spec.classes or ()
        pairs = []
        for stem, times in Counter(found.wanted()).items():
            if times > 1:
                faults.error("image listed more than once", stem)
            there = stem in found.images, stem in found.labels
            if not there[0]:
                faults.error(f"image missing from '{found.folder}'", stem)
            if not there[1]:
                faults.error(f"label map missing from '{spec.layout.labels}'", f"{stem}{spec.layout.label_suffix}")
            if all(there):
                pairs.append((stem, found.folder / found.images[stem], found.label(stem)))
        if spec.layout.listed is None:
            for stem in sorted(found.labels - found.images.keys()):
                faults.error(f"label map whose image is missing from '{found.folder}'", str(found.label(stem)))
        records = []
        for (stem, image, label), (size, problem) in zip(
            pairs, in_threads(lambda pair: header(*pair[1:]), pairs, f"headers of {spec.name}"), strict=True
        ):
            if problem is not None:
                faults.error(*problem)
            if size is not None:
                records.append(_record(stem, image, label, size))
        return Contents(classes, tuple(range(len(classes))), records, truth=spec.layout)

    def counts(self, contents: Contents) -> bool:
        return True  # what a map holds is known once its pixels are: `census`

    def census(self, contents: Contents, name: str, faults: Faults) -> tuple[dict[str, int], dict[str, int]]:
        K, ignored = len(contents.classes), contents.truth.ignore_label
        total = np.zeros(256, np.int64)
        files = [Path(record["sem_seg_file_name"]) for record in contents.records]
        for file, found in zip(files, in_threads(histogram, files, f"label maps of {name}"), strict=True):
            if isinstance(found, str):
                faults.error("label map cannot be read", f"{file} ({found})")
                continue
            total += found
            outside = [int(i) for i in np.flatnonzero(found) if i >= K and i != ignored]
            if outside:
                faults.error(
                    f"label map with ids out of range: there are {K} classes, numbered from 0, and {ignored} is "
                    "ignored; give their ids, or list the classes",
                    f"{file} has {', '.join(map(str, outside[:5]))}{', ...' * (len(outside) > 5)}",
                )
            elif not found[:K].any():
                faults.warn("label map without a labelled pixel", str(file))
        if files and not total[:K].any():
            faults.error(f"not a single pixel is labelled: every map holds {ignored} alone, which is ignored")
        return dict(zip(contents.classes, total.tolist(), strict=False)), {}


class _Files:
    """Holds the images and maps that lie in a split's folders, by stem."""

    def __init__(self, spec: DatasetSpec):
        self.spec, self.folder = spec, _images(spec)
        for folder in (self.folder, spec.layout.labels):
            if not folder.is_dir():
                remedy = spec.remedy or f"is root '{spec.root}' right?"
                raise DatasetError(f"dataset '{spec.name}': folder '{folder}' does not exist; {remedy}")
        layout = spec.layout
        if layout.image_suffix is not None:
            self.images = {
                name.removesuffix(layout.image_suffix): name for name in _named(self.folder, layout.image_suffix)
            }
        else:
            self.images, _ = by_stem(read_tree(self.folder, IMAGE_SUFFIXES).files)
        self.labels = {name.removesuffix(layout.label_suffix) for name in _named(layout.labels, layout.label_suffix)}

    def label(self, stem: str) -> Path:
        labels: Path = self.spec.layout.labels
        return labels / f"{stem}{self.spec.layout.label_suffix}"

    def wanted(self) -> list[str]:
        """Returns the stems of the split, in order.

        Raises:
            DatasetError: the list is missing or empty, a line is not a stem, or the folder has no image.
        """
        listed = self.spec.layout.listed
        if listed is None:
            if not self.images:
                suffix = self.spec.layout.image_suffix or ", ".join(IMAGE_SUFFIXES)
                raise DatasetError(
                    f"dataset '{self.spec.name}': no image ({suffix}) below '{self.folder}'; give `images` and "
                    "`image_suffix`"
                )
            return sorted(self.images)
        if not listed.is_file():
            remedy = f"; {self.spec.remedy}" if self.spec.remedy else ""
            raise DatasetError(f"dataset '{self.spec.name}': list '{listed}' does not exist{remedy}")
        stems = []
        for number, line in enumerate(decoded(listed, listed.read_bytes()).splitlines(), start=1):
            if not (words := line.strip()) or (words.startswith("#") and words not in self.images):
                continue
            if len(words.split()) > 1 and words not in self.images:
                raise DatasetError(
                    f"'{listed}' line {number}: '{one_line(words)}' holds {len(words.split())} words; expected one "
                    "stem: the image's path below its folder, without the suffix"
                )
            stem = self._stem(words)
            if os.path.isabs(stem) or ".." in stem.split("/"):
                raise DatasetError(
                    f"'{listed}' line {number}: '{one_line(words)}' leads out of the image folder; give paths below it"
                )
            stems.append(stem)
        if not stems:
            raise DatasetError(f"dataset '{self.spec.name}': list '{listed}' names no image")
        return stems

    def _stem(self, words: str) -> str:
        """Returns the stem that a line means; the line may also name the image's file."""
        suffix = self.spec.layout.image_suffix or os.path.splitext(words)[1]
        bare = words.removesuffix(suffix)
        return bare if words not in self.images and self.images.get(bare) == words else words


def _images(spec: DatasetSpec) -> Path:
    assert spec.image_root is not None  # check_spec
    return spec.image_root


def _named(folder: Path, suffix: str) -> list[str]:
    """Returns the paths below a folder that end with `suffix`, relative to it."""
    return [name for name in read_tree(folder, (suffix.lower(),)).files if name.endswith(suffix)]


def _record(stem: str, image: Path, label: Path, size: tuple[int, int]) -> Record:
    return {
        "file_name": str(image),
        "image_id": stem,
        "height": size[1],
        "width": size[0],
        "annotations": [],
        "sem_seg_file_name": str(label),
    }
