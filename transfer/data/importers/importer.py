"""Defines what a reader of another tool's annotations gives: images, and shapes as that tool calls them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.folders import read_tree
from pretrain.runtime.log import progress
from pretrain.runtime.wording import short
from transfer.data.faults import Faults
from transfer.data.spec import DatasetError
from transfer.data.stems import IMAGE_SUFFIXES, by_stem

BOX, POLYGON, ELLIPSE = "box", "polygon", "ellipse"


@dataclass(frozen=True)
class Shape:
    """Holds one shape, not yet checked.

    Attributes:
        word: the tool's word for it.
        kind: `BOX`, whose values are two opposite corners [x0, y0, x1, y1]; `POLYGON`, [x0, y0, x1, y1, ...];
            `ELLIPSE`, [x, y, radius, other radius, angle]; or None for what is no region. Values are pixels from the
            image's upper left corner; the angle is in radians from x towards y.
        values: values as in the file, of any type.
        label: label of its class, of any type.
        where: the file and the place in it.
        group: shapes of one image with the same label and group are parts of one object; None for a shape alone.
        scaled: whether values are shares of the image's width and height.
    """

    word: str
    kind: str | None
    values: Sequence[Any]
    label: Any
    where: str
    group: Hashable = None
    scaled: bool = False


@dataclass(frozen=True)
class Sheet:
    """Holds one image's annotations.

    Attributes:
        file_name: path of the image below its folder, parts joined by slashes.
        where: the file that holds the annotations.
        size: (width, height) as the file states it; None if it does not.
    """

    file_name: str
    where: str
    shapes: tuple[Shape, ...]
    size: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Part:
    """Holds some images with annotations.

    Attributes:
        folder: folder of the images.
        split: name of the split, if the source has one.
        classes: classes in the source's order, if it has one.
    """

    folder: Path
    sheets: tuple[Sheet, ...]
    split: str = ""
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Options:
    """Holds what a user says about a source.

    Attributes:
        images: the folder that holds the images; None takes the source's own.
        attribute: for VIA, the region's attribute that names its class; None takes the only one.
    """

    images: Path | None = None
    attribute: str | None = None


class Importer(ABC):
    """Reads a tool's annotations; has no state.

    Attributes:
        name: its name in the command.
        source: what it reads, for the help.
        options: names of the `Options` that it takes.
    """

    name: str
    source: str
    options: tuple[str, ...] = ("images",)

    def check(self, options: Options) -> None:
        """Raises DatasetError if an option would have no effect."""
        given = (name for name, value in vars(options).items() if value is not None)
        if unused := [f"--{name}" for name in given if name not in self.options]:
            raise DatasetError(f"{', '.join(unused)} has no effect on {self.name}'s annotations; leave it out")

    @abstractmethod
    def read(self, source: Path, options: Options, faults: Faults) -> list[Part]:
        """Reads a source without opening images.

        Raises:
            DatasetError: nothing of the source can be read. Faults of single images or shapes go into `faults`.
        """


def path_below(folder: Path, base: Path, name: Any) -> str:
    """Returns an image's name, relative to `base`, as a path below `folder`; backslashes separate folders, too.

    Raises:
        DatasetError: the value is not a name, or leads out of `folder`.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name or any("\ud800" <= c <= "\udfff" for c in name):
        raise DatasetError(f"{short(name)} is no name of an image")
    plain = name.replace("\\", "/")
    path = os.path.relpath(os.path.normpath(os.path.join(base, plain)), folder)
    if os.path.isabs(plain) or plain[1:2] == ":" or path.split(os.sep)[0] in ("..", "."):
        raise DatasetError(
            f"image {short(name)} does not lie below '{folder}'; name the folder that holds all (--images)"
        )
    return path


def gathered(names: Sequence[str], what: str, make: Callable[[str], Sheet | None], faults: Faults) -> tuple[Sheet, ...]:
    """Makes the sheets of many files, with a progress bar for 1,000 or more.

    Args:
        make: returns the sheet of a file's name, or None; its error for that file alone goes into `faults`.
    """
    sheets = []
    with progress(len(names), what, "files", disable=len(names) < 1000) as bar:
        for name in names:
            bar.update()
            try:
                sheet = make(name)
            except (DatasetError, OSError) as error:
                faults.error(str(error))
                continue
            sheets += [] if sheet is None else [sheet]
    return tuple(sheets)


def image_by_stem(folder: Path, faults: Faults) -> dict[str, str]:
    """Returns stem -> path of every image below a folder; `faults` notes those that another one of their stem hides."""
    images, others = by_stem(read_tree(folder, IMAGE_SUFFIXES).files)
    if others:
        faults.note(
            "images that differ from another in the suffix alone, left out", *(str(folder / name) for name in others)
        )
    return images


def listed(value: Any) -> list[Any]:
    """Returns the value if it is a list, else a list that holds it alone."""
    return value if isinstance(value, list) else [value]
