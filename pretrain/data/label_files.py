"""Labels from a file: a text list of `path label`, or a json as iNaturalist 2018 has it. Both are checked whole.

Paths are relative to the folder of the file, so that a set moves with it.
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
    """One image of a file of labels.

    Attributes:
        place: where it stands, for errors: "line 3", "images[2]".
        name: its path.
        label: position in the file's classes.
    """

    place: str
    name: str
    label: int


@dataclass(frozen=True)
class LabelFile:
    """What a file of labels says.

    Attributes:
        entries: in its order, names normalised, every image there.
        classes: names, in the order of labels.
        places: where the file first names each class.
        notes: what was left out.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_label_file(path: Path, key: str) -> LabelFile:
    """Reads a .txt list or a .json.

    A list has a path and its class on each line, the class being the word after the last space; empty lines are
    ignored. Classes are sorted: by value if all are whole numbers, else as text. In a json they are the categories, by
    id. Both are UTF-8, with or without a byte order mark.

    Args:
        key: config key or option that gave the file, for errors.

    Raises:
        ConfigError: one sentence with the file, the line or field, its value and the remedy: no label or two, a label
            that is no class, an image that is not there, outside of the file's folder or named twice, nothing at all.
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
    """Labels in order; `first`: where each stands first. Two ways to write one label are an error."""
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
    """The text in Unicode's composed form, NFC: what looks the same is the same."""
    return unicodedata.normalize("NFC", text)


class _Read(BaseModel):
    """Fields that are not read here may be there: licences, sizes, ranks of a species."""

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
    """The same with normalised names and without what is hidden."""
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
    """On one line, and whole if it has the length of a path."""
    return repr(name) if len(name) <= 200 else short(name)


def _missing(root: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Entries without a file. Reads each folder once, which takes seconds where looking at each file takes minutes."""
    there: dict[str, set[str]] = {}
    for folder in {posixpath.dirname(entry.name) for entry in entries}:
        try:
            with os.scandir(root / folder) as found:
                there[folder] = {item.name for item in found if item.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            there[folder] = set()
    return [e for e in entries if posixpath.basename(e.name) not in there[posixpath.dirname(e.name)]]


def _other_form(root: Path, name: str) -> str:
    """What to do where a path is there but for the form of its letters: accents (NFC, NFD), or upper and lower case."""
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
