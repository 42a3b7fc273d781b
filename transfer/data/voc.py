"""Reads the Pascal VOC layout: `ImageSets/Main/<split>.txt`, `Annotations/<id>.xml`, `JPEGImages/<id>.jpg`.

The last two folders may hold subfolders, as CVAT writes them; an id is then `folder/name`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pretrain.runtime.folders import read_tree
from pretrain.runtime.log import progress
from transfer.data.faults import Faults
from transfer.data.format import Contents, Format
from transfer.data.spec import DatasetError, DatasetSpec, Names, Record, Text, few, nearest, one_line, path_in
from transfer.data.stems import IMAGE_SUFFIXES, by_stem, stems
from transfer.data.text_files import decoded
from transfer.data.voc_xml import VOCAnnotation, read_annotation

# In the order of Detectron2, which is the alphabetical order of the devkit.
CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)

PROTOCOL = {2007: "voc07", 2012: "voc12"}


class VOCKeys(BaseModel):
    """Declares a spec file's keys; see datasets/README.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    root: Text
    classes: Names
    year: int
    splits: Names


class VOC(Format):
    """Reads this layout; see the module."""

    name = "voc"
    keys = VOCKeys
    set_aside = "difficult"

    def specs(self, keys: VOCKeys, file: Path) -> list[DatasetSpec]:
        root = path_in(file.parent, keys.root)
        return [
            DatasetSpec(f"{keys.name}_{split}", "voc", root, split, tuple(keys.classes), keys.year)
            for split in keys.splits
        ]

    def check_spec(self, spec: DatasetSpec) -> None:
        if not spec.classes:
            raise DatasetError(f"dataset '{spec.name}': the VOC layout holds no class list; give `classes`")
        if padded := [name for name in spec.classes if name != name.strip()]:
            raise DatasetError(f"dataset '{spec.name}': class {padded[0]!r} has spaces around it, which no XML keeps")
        if spec.year not in PROTOCOL:
            raise DatasetError(
                f"dataset '{spec.name}': year is {spec.year!r}; give 2007 (11-point AP) or 2012 (area under the curve)"
            )

    def place(self, spec: DatasetSpec) -> Path:
        return split_file(spec)

    def sources(self, spec: DatasetSpec) -> Iterable[str | Path]:
        yield self.place(spec)
        if (folder := spec.root / "Annotations").is_dir():
            there = read_tree(folder)
            yield from (os.path.join(folder, name) for name in (*there.folders, *there.files))
        images = spec.root / "JPEGImages"
        yield from (images / below for below in read_tree(images, ("\0",)).folders) if images.is_dir() else (images,)

    def protocols(self, spec: DatasetSpec) -> tuple[str, ...]:
        assert spec.year is not None  # check_spec
        return (PROTOCOL[spec.year],)

    def listing(self, spec: DatasetSpec) -> tuple[bytes, Sequence[tuple[str, Path]]]:
        ids, files = read_split(spec), image_files(spec)
        texts = [(path.read_bytes() if (path := annotation_file(spec, i)).is_file() else b"") for i in ids]
        names = [i + files[i].suffix if i in files else i for i in ids]
        content = b"\0".join([repr(spec.year).encode(), "\n".join(ids).encode(), *texts])
        return content, [(name, spec.root / "JPEGImages" / name) for name in names]

    def read(self, spec: DatasetSpec, faults: Faults) -> Contents:
        ids, files = read_split(spec), image_files(spec)
        for image_id, times in Counter(ids).items():
            if times > 1:
                faults.error("image listed more than once", image_id)
        index = {name: i for i, name in enumerate(spec.classes or ())}
        records: list[Record] = []
        missing = set()
        with progress(len(ids), f"annotations of {spec.name}", "files", disable=len(ids) < 1000) as bar:
            for image_id in ids:
                bar.update()
                if image_id not in files:
                    faults.error(f"image missing from '{spec.root / 'JPEGImages'}'", image_id)
                    missing.add(len(records))
                try:
                    annotation = read_annotation(annotation_file(spec, image_id))
                except DatasetError as error:
                    faults.error("annotation missing or malformed", str(error))
                    missing.discard(len(records))
                    continue
                path = files.get(image_id, spec.root / "JPEGImages" / f"{image_id}.jpg")
                records.append(_record(image_id, path, annotation, index, faults))
                _check_twice(records[-1], faults.warn if spec.official else faults.unscorable)
        classes = spec.classes or ()
        return Contents(classes, tuple(range(1, len(classes) + 1)), records, frozenset(missing))


def _record(image_id: str, path: Path, annotation: VOCAnnotation, index: Mapping[str, int], faults: Faults) -> Record:
    annotations = []
    for obj in annotation.objects:
        if obj.name not in index:
            faults.error(f"class '{one_line(obj.name)}' is not listed{nearest(obj.name, index)}", image_id)
            continue
        annotations.append(
            {
                "bbox": list(obj.box),
                "category_id": index[obj.name],
                "iscrowd": 0,
                "difficult": int(obj.difficult),
            }
        )
    return {
        "file_name": str(path),
        "image_id": image_id,
        "height": annotation.height,
        "width": annotation.width,
        "annotations": annotations,
    }


def _check_twice(record: Record, fault: Callable[..., None]) -> None:
    """Reports objects of equal box and class: by VOC's rule a detection counts only for the first of them."""
    seen = set()
    for annotation in record["annotations"]:
        key = (annotation["category_id"], *annotation["bbox"])
        if key in seen and not annotation["difficult"]:
            fault("object annotated twice, with one box, of which VOC's rule finds only one", record["image_id"])
        seen.add(key)


def split_file(spec: DatasetSpec) -> Path:
    return spec.root / "ImageSets" / "Main" / f"{spec.split}.txt"


def annotation_file(spec: DatasetSpec, image_id: str) -> Path:
    return spec.root / "Annotations" / f"{image_id}.xml"


def read_split(spec: DatasetSpec) -> list[str]:
    """Reads the split's image ids, in file order; a line may also name the image's file, and `#` begins a comment.

    Raises:
        DatasetError: the file is missing, empty or not text, or a line is not an id.
    """
    path = split_file(spec)
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        hint = f"; the folder has {few(there, 6)}" if there else f"; nor does the folder '{path.parent}' hold any split"
        remedy = f". {spec.remedy}" if spec.remedy else ""
        raise DatasetError(f"dataset '{spec.name}': split file '{path}' does not exist{hint}{remedy}")
    known = stems(spec.root / "Annotations", (".xml",))
    ids = []
    for number, line in enumerate(decoded(path, path.read_bytes()).splitlines(), start=1):
        if (found := _id_of(line, known)) is None:
            continue
        if found not in known and (len(found.split()) > 1 or "/" in found or "\\" in found):
            words = len(found.split())
            raise DatasetError(
                f"'{path}' line {number}: '{one_line(line.strip())}' "
                + (f"holds {words} words" if words > 1 else "is a path")
                + "; expected one image id, the name of a file in Annotations without .xml"
            )
        ids.append(found)
    if not ids:
        raise DatasetError(f"dataset '{spec.name}': split file '{path}' lists no image")
    return ids


def _id_of(line: str, known: set[str]) -> str | None:
    """Returns the id that a line of a split file names, or None. Ids that have an annotation come first."""
    whole = line.strip()
    if whole in known:
        return whole
    words = line.split("#", 1)[0].strip()
    if not words:
        return None
    stem, suffix = os.path.splitext(words)
    return stem if suffix.lower() in IMAGE_SUFFIXES and words not in known else words


def image_files(spec: DatasetSpec) -> dict[str, Path]:
    """Returns image id -> file for every image below JPEGImages."""
    folder = spec.root / "JPEGImages"
    if not folder.is_dir():
        remedy = spec.remedy or f"is root '{spec.root}' right?"
        raise DatasetError(f"dataset '{spec.name}': folder '{folder}' does not exist; {remedy}")
    return {stem: folder / name for stem, name in by_stem(read_tree(folder, IMAGE_SUFFIXES).files)[0].items()}
