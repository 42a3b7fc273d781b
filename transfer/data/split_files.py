"""Writes splits of sets that have none: lists for a folder in the VOC layout, one json per split for COCO's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.checkpoint import write_together
from pretrain.runtime.wording import short
from transfer.data import strict_json
from transfer.data.spec import DatasetError, few
from transfer.data.splits import divide
from transfer.data.stems import IMAGE_SUFFIXES, stems


def write_splits(source: Path, shares: Mapping[str, float], seed: int, force: bool) -> dict[Path, int]:
    """Divides a set into random splits and writes the files that define them.

    Args:
        source: a folder with Annotations and JPEGImages, for which ImageSets/Main/<split>.txt are written, or a COCO
            json, beside which <its stem>_<split>.json are written.
        force: overwrite files of these names.

    Returns:
        The files, each with its number of images.

    Raises:
        DatasetError: the source is neither, an image of a VOC folder has no annotation, or a file already exists.
    """
    voc = source.is_dir()
    folder = source / "ImageSets" / "Main" if voc else source.parent
    files = {split: folder / (f"{split}.txt" if voc else f"{source.stem}_{split}.json") for split in shares}
    if there := [path for path in files.values() if path.exists()]:
        if not force:
            raise DatasetError(f"{few(there)} there already; name other splits, or write over them with --force")
    drawn, texts = (_voc if voc else _coco)(source, shares, seed)
    write_together({path: texts[split].encode() for split, path in files.items()})
    return {path: len(drawn[split]) for split, path in files.items()}


_Drawn = tuple[dict[str, list[str]], dict[str, str]]  # split -> names, and the text of its file


def _voc(source: Path, shares: Mapping[str, float], seed: int) -> _Drawn:
    annotated = stems(_folder(source, "Annotations"), (".xml",))
    pictured = stems(_folder(source, "JPEGImages"), IMAGE_SUFFIXES)
    for what, lonely in (("no image", annotated - pictured), ("no annotation", pictured - annotated)):
        if lonely:
            raise DatasetError(
                f"'{source}': {len(lonely)} have {what} ({few(sorted(lonely))}); add it, or move them elsewhere"
            )
    if odd := sorted(name for name in annotated if not _is_line(name)):
        raise DatasetError(
            f"'{source}': the name {short(odd[0])} is no line of a list, for its spaces, line ends or bytes; rename it"
        )
    drawn = divide(list(annotated), shares, seed)
    return drawn, {split: "".join(f"{name}\n" for name in names) for split, names in drawn.items()}


def _is_line(name: str) -> bool:
    """Returns whether a text file can list a name so that its reader finds it again."""
    return name.splitlines() == [name.strip()] and not any("\ud800" <= c <= "\udfff" for c in name)


def _folder(source: Path, name: str) -> Path:
    if not (source / name).is_dir():
        raise DatasetError(f"'{source}' has no folder {name}; give the folder that holds Annotations and JPEGImages")
    return source / name


def _coco(source: Path, shares: Mapping[str, float], seed: int) -> _Drawn:
    if not source.is_file():
        raise DatasetError(f"'{source}' does not exist; give a folder in the VOC layout, or a json of COCO")
    data = strict_json.read(source, DatasetError)
    if not isinstance(data, dict) or not all(_entries(data.get(key)) for key in ("images", "annotations")):
        raise DatasetError(f"'{source}' has no lists 'images' and 'annotations'; expected COCO's instances format")
    by_name: dict[str, str] = {}
    for image in data["images"]:
        name, number = image.get("file_name"), repr(image.get("id"))
        if not isinstance(name, str) or name in by_name:
            raise DatasetError(f"'{source}': file_name {short(name)} is none, or stands twice")
        by_name[name] = number
    if twice := [number for number, times in Counter(by_name.values()).items() if times > 1]:
        raise DatasetError(f"'{source}': image id {few(twice)} stands twice; number the images anew")
    drawn = divide(list(by_name), shares, seed)
    texts = {}
    for split, names in drawn.items():
        others = set(by_name.values()) - {by_name[name] for name in names}
        part = {
            **data,
            "images": [image for image in data["images"] if repr(image.get("id")) not in others],
            "annotations": [entry for entry in data["annotations"] if repr(entry.get("image_id")) not in others],
        }  # annotations of no image are left to whoever reads the set
        texts[split] = json.dumps(part)
    return drawn, texts


def _entries(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
