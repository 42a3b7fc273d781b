"""Collects what is wrong with a data set while it is read; equal faults share a line, and the use decides on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from transfer.data.spec import DatasetError, few

Level = Literal["error", "unscorable", "unannotated", "warning", "note"]
LEVELS: Sequence[Level] = ("error", "unscorable", "unannotated", "warning", "note")

_IN_WORDS = {"unscorable": "error in a test set", "unannotated": "nothing to score"}


@dataclass(frozen=True)
class Problem:
    """Describes one kind of fault.

    Attributes:
        level: "error" stops every use; "unscorable" stops a use as a test set, since even perfect predictions would
            not score 100 (training leaves such objects out); "unannotated" means that there is nothing to score
            against, but a trained network may run on it; "warning" stops nothing; a "note" says what was mended.
        what: what is wrong.
        where: the places, in order of discovery.
    """

    level: Level
    what: str
    where: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = f" [{len(self.where)}x]" if len(self.where) > 1 else ""
        level = _IN_WORDS.get(self.level, self.level)
        return f"{level}: {self.what}{times}" + (f": {few(self.where)}" if self.where else "")


class Faults:
    """Collects the faults of one data set; equal faults share a line."""

    def __init__(self) -> None:
        self._found: dict[str, Problem] = {}

    def error(self, what: str, *where: str) -> None:
        self._add("error", what, where)

    def unscorable(self, what: str, *where: str) -> None:
        self._add("unscorable", what, where)

    def unannotated(self, what: str) -> None:
        self._add("unannotated", what, ())

    def warn(self, what: str, *where: str) -> None:
        self._add("warning", what, where)

    def note(self, what: str, *where: str) -> None:
        self._add("note", what, where)

    def _add(self, level: Level, what: str, where: Sequence[str]) -> None:
        self._found.setdefault(what, Problem(level, what)).where.extend(where)

    @property
    def problems(self) -> list[Problem]:
        """Returns all problems, the worst first."""
        return sorted(self._found.values(), key=lambda problem: LEVELS.index(problem.level))


def refuse(name: str, place: object, problems: Sequence[Problem], levels: Sequence[Level], remedy: str = "") -> None:
    """Raises DatasetError with one line per problem of these levels, if there are any.

    Args:
        name: name of the data set.
        place: the file or folder to look into.
        remedy: where to get the data set again, if that is known.
    """
    found = [problem for problem in problems if problem.level in levels]
    if not found:
        return
    more = f"; {remedy}" if remedy and not any(remedy in problem.what for problem in found) else ""
    if len(found) == 1:
        what, begins = str(found[0]).partition(": ")[2], f"dataset '{name}'"
        raise DatasetError(f"{what}{more}" if what.startswith(begins) else f"{begins} ('{place}'): {what}{more}")
    lines = "".join(f"\n  {problem}" for problem in found)
    raise DatasetError(f"dataset '{name}' ('{place}') cannot be used{more}:{lines}")
