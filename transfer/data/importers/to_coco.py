"""Imports sources: reads them and their images, and writes one COCO json per split and a spec file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime import slug
from pretrain.runtime.checkpoint import write_together
from pretrain.runtime.wording import visible
from transfer.data.catalog import builtin_specs, read_spec_file
from transfer.data.faults import Faults, refuse
from transfer.data.image_files import image_size
from transfer.data.importers.importer import Importer, Options, Part, Sheet
from transfer.data.importers.objects import Object, objects
from transfer.data.spec import DatasetError, DatasetSpec, few, nearest, one_line
from transfer.data.splits import check_name, divide
from transfer.data.threads import in_threads


@dataclass(frozen=True)
class Plan:
    """Says what an import makes of its sources.

    Attributes:
        shares: split -> its share of the images; if empty, each source is a split.
        classes: names in the order of the ids; None takes the source's order, or sorts by name.
        leave_out: the tool's words for shapes that are not read.
        force: whether to overwrite the files of an earlier import.
    """

    output: Path
    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    classes: Sequence[str] | None = None
    leave_out: Collection[str] = ()
    force: bool = False


@dataclass(frozen=True)
class _Read:
    """Holds a sheet with its image's size and objects."""

    sheet: Sheet
    size: tuple[int, int]
    objects: list[Object]


def convert(
    importer: Importer, sources: Sequence[str], options: Options, plan: Plan
) -> tuple[list[DatasetSpec], list[str]]:
    """Writes `annotations/<split>.json` per split and `<name>.yaml` in the output folder, which names the data sets.

    Args:
        sources: each is PATH or SPLIT=PATH.

    Returns:
        The data sets, and one line for each kind of thing that was left out.

    Raises:
        DatasetError: sources or images have faults; one message gives all of them, and nothing is written.
    """
    faults = Faults()
    importer.check(options)
    parts = _parts(importer, sources, options, plan, faults)
    spec_file = plan.output / f"{slug.folder(plan.output.resolve().name)}.yaml"
    names = list(plan.shares) or [part.split for part in parts]
    if not plan.force:
        for path in (spec_file, *(_json_file(plan.output, name) for name in names)):
            if path.exists():
                raise DatasetError(f"'{path}' exists; choose another --output, or write over it with --force")
    read = [_read(part, plan.leave_out, faults) for part in parts]
    classes = _classes(parts, read, plan.classes, faults)
    refuse(importer.name, sources[0], faults.problems, ("error",))
    splits_of = Counter(
        os.path.realpath(p.folder / r.sheet.file_name) for p, own in zip(parts, read, strict=True) for r in own
    )
    if twice := [path for path, count in splits_of.items() if count > 1]:
        faults.warn("image in more than one split; one that is trained on tests nothing", *twice)
    splits = {name: (part.folder, images) for name, part, images in zip(names, parts, read, strict=False)}
    if plan.shares:
        by_name = {r.sheet.file_name: r for r in read[0]}
        drawn = divide(list(by_name), plan.shares, plan.seed)
        splits = {name: (parts[0].folder, [by_name[n] for n in chosen]) for name, chosen in drawn.items()}
    for name, (folder, _) in splits.items():  # refuses names that cannot be, before anything is written
        json_file, full = _json_file(plan.output, name), f"{spec_file.stem}_{name}"
        if full in builtin_specs():
            raise DatasetError(f"'{full}' is a data set that is built in; choose another --output, whose name it has")
        DatasetSpec(full, "coco", plan.output, name, classes, None, folder, json_file)
        _relative(folder, plan.output)
    files = {
        _json_file(plan.output, name): json.dumps(_coco(images, classes)).encode()
        for name, (_, images) in splits.items()
    }
    files[spec_file] = _spec(spec_file, {name: folder for name, (folder, _) in splits.items()}, classes)
    write_together(files)
    return read_spec_file(spec_file), [str(problem) for problem in faults.problems]


def _json_file(output: Path, split: str) -> Path:
    return output / "annotations" / f"{split}.json"


def _parts(importer: Importer, sources: Sequence[str], options: Options, plan: Plan, faults: Faults) -> list[Part]:
    """Reads the parts of all sources, each with a split name of its own, unless shares name the splits."""
    parts: list[Part] = []
    for source in sources:
        split, path = "", source
        if not os.path.exists(source) and "=" in source:
            split, _, path = source.partition("=")
        for part in importer.read(Path(path), options, faults):
            if split and part.split:
                raise DatasetError(f"'{path}' names its own splits; give it without '{one_line(split)}='")
            parts.append(replace(part, split=split or part.split))
    if plan.shares:
        if len(parts) != 1:
            raise DatasetError(f"shares divide one source, and here are {len(parts)}; leave --shares out")
        return parts
    if len(parts) == 1 and not parts[0].split:
        parts = [replace(parts[0], split="all")]
    for part in parts:
        if not part.split:
            raise DatasetError("several sources need names; give each as SPLIT=SOURCE, as in train=... val=...")
        check_name(part.split)
    if twice := [name for name, times in Counter(part.split for part in parts).items() if times > 1]:
        raise DatasetError(f"split {few(twice)} has several sources; give each another name")
    return parts


def _read(part: Part, left_out: Collection[str], faults: Faults) -> list[_Read]:
    """Opens every image of a part and turns its shapes into objects."""
    paths = [part.folder / sheet.file_name for sheet in part.sheets]
    sizes = in_threads(lambda path: image_size(path, decode=False), paths, f"images of {part.folder}")
    read, seen = [], set()
    for sheet, path, size in zip(part.sheets, paths, sizes, strict=True):
        if sheet.file_name in seen:
            faults.error("image with two files of annotations; merge them", f"{path} ({sheet.where})")
        elif not path.is_file():
            faults.error("image that does not exist", f"{path} (of {sheet.where})")
        elif isinstance(size, str):
            faults.error("image that cannot be read", f"{path} ({size})")
        elif size is None:
            faults.error("image of more than 8 bits per pixel; convert it to 8 bits", str(path))
        elif sheet.size is not None and tuple(sheet.size) != size:
            stated = " x ".join(one_line(v, 40) for v in sheet.size)
            faults.error(
                "image of another size than its annotations state; they were drawn on another one",
                f"{path} is {size[0]} x {size[1]}, stated {stated}",
            )
        else:
            read.append(_Read(sheet, size, objects(sheet, size, left_out, faults)))
        seen.add(sheet.file_name)
    return read


def _classes(
    parts: Sequence[Part], read: Sequence[Sequence[_Read]], wanted: Sequence[str] | None, faults: Faults
) -> tuple[str, ...]:
    labels = Counter(o.label for images in read for image in images for o in image.objects)
    if not labels and all(problem.level != "error" for problem in faults.problems):
        faults.error("no object is annotated")
    own = {part.classes for part in parts if part.classes is not None}
    if wanted is None:
        return own.pop() if len(own) == 1 else tuple(sorted(labels))
    if unknown := {label: count for label, count in labels.items() if label not in wanted}:
        for label, count in sorted(unknown.items()):
            hint = nearest(label, wanted)
            faults.error(f"label '{one_line(label)}' ({count} objects) that --classes does not list{hint}")
    return tuple(wanted)


def _coco(images: Sequence[_Read], classes: Sequence[str]) -> dict[str, Any]:
    """Makes COCO's instances json, with ids from 1."""
    ids = {name: i for i, name in enumerate(classes, 1)}
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for o in image.objects:
            x0, y0, x1, y1 = o.box
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": ids[o.label], "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": o.area(image.size),
                    **({"segmentation": o.polygons} if o.polygons else {}),
                }
            )  # fmt: skip
    return {
        "images": [
            {"id": number, "file_name": image.sheet.file_name, "width": image.size[0], "height": image.size[1]}
            for number, image in enumerate(images, 1)
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": annotations,
    }


def _relative(folder: Path, output: Path) -> str:
    """Returns the path from one folder to the other.

    Raises:
        DatasetError: a spec file would read the path as another one, since `$` and `~` have a meaning there.
    """
    path = os.path.relpath(folder, output)
    if "$" in path or path.startswith("~"):
        raise DatasetError(
            f"the path '{one_line(path)}' from --output to the images holds a $ or ~; rename that folder"
        )
    return path


def _spec(file: Path, folders: Mapping[str, Path], classes: Sequence[str]) -> bytes:
    """Makes the spec file, in which image folders are relative to it."""
    content = {
        "name": file.stem,
        "format": "coco",
        "root": ".",
        "classes": list(classes),
        "splits": {
            split: {"images": _relative(folder, file.parent), "annotations": f"annotations/{split}.json"}
            for split, folder in folders.items()
        },
    }
    head = f"# {file.name}: written by datasets/import_annotations.py\n"
    return (visible(head) + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode()
