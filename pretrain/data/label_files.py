"""Reads labels from a file: a text list of `path label`, or a JSON file in the format of iNaturalist 2018.

The whole file is checked. Paths are relative to its folder, so that a set can be moved together with its labels.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from pretrain.runtime.config import ConfigError
from pretrain.runtime.folders import is_hidden, note_left_out
from pretrain.runtime.validation import validate_json
from pretrain.runtime.wording import short

SUFFIXES = (".txt", ".json")


class Entry(NamedTuple):
    """Holds one image of a file of labels.

    Attributes:
        place: its place in the file, for errors: "line 3", "images[2]".
        name: the path of the image.
        label: the number of its class in the file's classes.
    """

    place: str
    name: str
    label: int


@dataclass(frozen=True)
class LabelFile:
    """Holds the contents of a file of labels.

    Attributes:
        entries: the images in the order of the file, with normalised names; every image exists.
        classes: the names of the classes, in the order of the labels.
        places: where the file first names each class.
        notes: what was left out.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_label_file(path: Path, key: str) -> LabelFile:
    """Reads a list (.txt) or a JSON file (.json) of labels.

    A list has a path and its class on each line, the class being the word after the last space; empty lines are
    ignored. Classes are sorted: by value if all are whole numbers, else as text. In a JSON file the classes are its
    categories, sorted by id. Both files are UTF-8, with or without a byte order mark.

    Args:
        key: the config key or option that gave the file, for errors.

    Raises:
        ConfigError: one sentence with the file, the line or field, its value and the remedy. An image has no label or
            two, does not exist, is outside of the file's folder or is named twice; a label is no class; or nothing is
            there.
    """
    source = f"{key} '{path}'"
    try:
        found = (_read_json if path.suffix.lower() == ".json" else _read_list)(path, source)
        return _checked(found, path, source)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} cannot be read: it is no UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error}") from error


def _read_list(path: Path, source: str) -> LabelFile:
    rows: list[tuple[str, str, str]] = []  # place, name, class
    with path.open(encoding="utf-8-sig") as f:
        for number, line in enumerate(f, start=1):
            words = line.strip().rsplit(maxsplit=1)
            if len(words) == 1:
                raise ConfigError(f"{source}: line {number}: {_shown(words[0])} has no label; write `path label`")
            if words:
                rows.append((f"line {number}", *words))  # type: ignore[arg-type]
    if not rows:
        raise ConfigError(f"{source} lists no image; write `path label` on each line")
    first: dict[str, str] = {}
    for place, _, label in rows:
        first.setdefault(label, place)
    classes = _sorted(first, source)
    numbers = {name: number for number, name in enumerate(classes)}
    entries = tuple(Entry(place, name, numbers[label]) for place, name, label in rows)
    return LabelFile(entries, classes, tuple(f"{first[name]} of '{path}'" for name in classes))


def _sorted(first: dict[str, str], source: str) -> tuple[str, ...]:
    """Returns the labels in order; `first` gives the place of each. Two ways to write the same label are an error."""
    numbers = all(re.fullmatch("-?[0-9]{1,18}", label) for label in first)
    what, same = ("number", int) if numbers else ("word", composed)
    seen: dict[object, str] = {}
    for label, place in first.items():
        if (other := seen.setdefault(same(label), label)) != label:
            raise ConfigError(
                f"{source}: {place}: the label {label} is the {what} {other} of {first[other]}; write it in one way"
            )
    return tuple(sorted(first, key=int if numbers else str))


def composed(text: str) -> str:
    """Returns the text in Unicode's composed form (NFC), in which texts that look the same are the same."""
    return unicodedata.normalize("NFC", text)


class _Read(BaseModel):
    """Allows fields that are not read here: licences, sizes, ranks of a species."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Numbered(_Read):
    id: int


class _Image(_Numbered):
    file_name: str


class _Annotation(_Read):
    image_id: int
    category_id: int


class _Category(_Numbered):
    name: str = ""


class _INaturalist(_Read):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def _read_json(path: Path, source: str) -> LabelFile:
    text = path.read_bytes().decode("utf-8-sig")
    data = validate_json(_INaturalist, text, source, ConfigError)
    fields: dict[str, Sequence[_Numbered]] = {"images": data.images, "categories": data.categories}
    for field, items in fields.items():
        if not items:
            raise ConfigError(f"{source}: {field} is empty; take the file that has some")
        seen: dict[int, int] = {}
        for number, item in enumerate(items):
            if (other := seen.setdefault(item.id, number)) != number:
                raise ConfigError(
                    f"{source}: {field}[{number}].id: is {item.id}, as is that of {field}[{other}]; remove one of them"
                )
    order = sorted(range(len(data.categories)), key=lambda number: data.categories[number].id)
    labels = {data.categories[number].id: label for label, number in enumerate(order)}
    entries = tuple(_labelled(data, labels, source))
    classes = (data.categories[number] for number in order)
    places = tuple(f"categories[{number}] of '{path}'" for number in order)
    return LabelFile(entries, tuple(" ".join(f"{c.id} {c.name}".split()) for c in classes), places)


def _labelled(data: _INaturalist, labels: dict[int, int], source: str) -> Iterator[Entry]:
    known = {image.id for image in data.images}
    annotations: dict[int, int] = {}  # id of the image -> number of its annotation
    for number, annotation in enumerate(data.annotations):
        place, image = f"{source}: annotations[{number}]", annotation.image_id
        if image not in known:
            raise ConfigError(f"{place}.image_id: is {image}, which is no image's id; remove it, or add the image")
        if annotation.category_id not in labels:
            raise ConfigError(
                f"{place}.category_id: is {annotation.category_id}, which is no category's id; add that to categories"
            )
        if (other := annotations.setdefault(image, number)) != number:
            raise ConfigError(
                f"{place}.image_id: is {image}, which annotations[{other}] has labelled; an image has one class: "
                "remove one of them"
            )
    for number, item in enumerate(data.images):
        if item.id not in annotations:
            raise ConfigError(
                f"{source}: images[{number}].id: is {item.id} ({_shown(item.file_name)}), which no annotation labels; "
                "add one, or remove the image"
            )
        yield Entry(
            f"images[{number}].file_name", item.file_name, labels[data.annotations[annotations[item.id]].category_id]
        )


def _checked(found: LabelFile, path: Path, source: str) -> LabelFile:
    """Returns the labels with normalised names and without hidden files; refuses names that cannot be used."""
    entries, first = [], dict[str, str]()
    for entry in found.entries:
        name = _normalised(entry, source)
        if (other := first.setdefault(name, entry.place)) != entry.place:
            raise ConfigError(f"{source}: {entry.place}: {_shown(name)} stands at {other} too; remove one of them")
        entries.append(Entry(entry.place, name, entry.label))
    hidden = [entry.name for entry in entries if is_hidden(entry.name)]
    entries = [entry for entry in entries if not is_hidden(entry.name)] if hidden else entries
    if not entries:
        raise ConfigError(f"{source} lists nothing but hidden files, such as {_shown(hidden[0])}; list others")
    if missing := _missing(path.parent, entries):
        more = f" (nor are {len(missing) - 1} more)" if len(missing) > 1 else ""
        remedy = _other_form(path.parent, missing[0].name) or (
            "correct the path, or put the file of labels where its paths begin"
        )
        raise ConfigError(
            f"{source}: {missing[0].place}: {_shown(missing[0].name)} is no file below '{path.parent}'{more}; {remedy}"
        )
    return LabelFile(tuple(entries), found.classes, found.places, note_left_out(path, "hidden", hidden))


def _normalised(entry: Entry, source: str) -> str:
    name = posixpath.normpath(entry.name)
    try:
        usable = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        usable = False
    if not usable or not entry.name:
        raise ConfigError(f"{source}: {entry.place}: {_shown(entry.name)} is no file name; write a path")
    if name.startswith("/") or name.partition("/")[0] == "..":
        raise ConfigError(
            f"{source}: {entry.place}: {_shown(entry.name)} lies outside of the folder of the file; write paths "
            "relative to it (a link in it may lead elsewhere)"
        )
    return name


def _shown(name: str) -> str:
    """Returns a name on one line, and whole unless it is longer than paths are."""
    return repr(name) if len(name) <= 200 else short(name)


def _missing(root: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Returns the entries without a file.

    Each folder is read once, which takes seconds where looking at each file takes minutes.
    """
    there: dict[str, set[str]] = {}
    for folder in {posixpath.dirname(entry.name) for entry in entries}:
        try:
            with os.scandir(root / folder) as found:
                there[folder] = {item.name for item in found if item.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            there[folder] = set()
    return [e for e in entries if posixpath.basename(e.name) not in there[posixpath.dirname(e.name)]]


def _other_form(root: Path, name: str) -> str:
    """Returns the remedy for a path that exists with accents in another form (NFC, NFD) or other capitals; else ""."""
    folder = root
    for part in name.split("/"):
        try:
            there = os.listdir(folder)
        except OSError:
            return ""
        alike = [found for found in there if composed(found).casefold() == composed(part).casefold()]
        if not alike:
            return ""
        folder /= part if part in alike else alike[0]
    found = os.path.relpath(folder, root)
    if found == name:  # it is, but no file
        return ""
    how = "accents are written in another Unicode form" if composed(found) == composed(name) else "capitals differ"
    return f"{_shown(found)} is there, but {how}: write it as the file system does, {ascii(found)}"
