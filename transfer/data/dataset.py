"""Opens a data set: reads and validates it once per process for loaders, evaluators, linter and report.

Faults are found in this one place, before anything is computed: `doctor.check` shows all of them, `open_dataset`
refuses a set that cannot be trained on, and `Dataset.check_scorable` one that cannot be scored.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer.data.boxes import check_box
from transfer.data.faults import Faults, Level, Problem, refuse
from transfer.data.format import Contents
from transfer.data.formats import format_of
from transfer.data.keypoints import Keypoints
from transfer.data.records import PackedRecords
from transfer.data.spec import DatasetError, DatasetSpec, few

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Holds one split, read and validated. Records are packed, so each access to one gives a fresh dict.

    Attributes:
        classes: names by contiguous category id.
        category_ids: the ids that result files use, by contiguous id.
        records: one per image, in the data set's order; see `catalog.load`.
        problems: faults that do not stop every use of the set, the worst first.
        truth: what the format's protocols need beside the records.
        missing: positions in `records` of images whose file does not exist.
        keypoints: the keypoints that every object may have; None if the set has none.
        left_out: number of annotated objects that the records lack; see `format.Contents`.
    """

    spec: DatasetSpec
    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    records: PackedRecords
    problems: tuple[Problem, ...] = ()
    truth: Any = None
    missing: frozenset[int] = frozenset()
    keypoints: Keypoints | None = None
    left_out: int = 0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def protocols(self) -> tuple[str, ...]:
        """Returns the names of the protocols that can score the set."""
        return format_of(self.spec).protocols(self.spec)

    @property
    def notes(self) -> list[str]:
        """Returns what was mended on reading the set, for the notes of a result."""
        return [f"data set '{self.name}': {p.what}" for p in self.problems if p.level == "note"]

    @cached_property
    def order(self) -> Mapping[str | int, int]:
        """Maps image id to position in `records`."""
        return {record["image_id"]: i for i, record in enumerate(self.records)}

    @cached_property
    def annotation_digest(self) -> str:
        """Returns 16 hex digits that digest classes, metric, split and annotation bytes; images need not exist."""
        return annotated(self.spec)[0].hexdigest()[:16]

    def check_scorable(self) -> None:
        """Raises DatasetError if even perfect predictions would not score 100 on this set."""
        levels: tuple[Level, ...] = ("unscorable", "unannotated")
        refuse(self.name, format_of(self.spec).place(self.spec), self.problems, levels, self.spec.remedy)

    @property
    def unannotated(self) -> bool:
        """Returns whether the set has nothing to score against, as COCO's image_info_test-dev2017.json."""
        return any(problem.level == "unannotated" for problem in self.problems)


_Stamp = tuple[tuple[str, int, int], ...]
_annotated: dict[DatasetSpec, tuple[_Stamp, Any, Sequence[tuple[str, Path]]]] = {}


def annotated(spec: DatasetSpec) -> tuple[Any, Sequence[tuple[str, Path]]]:
    """Returns a SHA-256 object of the annotations, which can be updated further, and (name, file) of each image.

    Annotations are read only once as long as their files do not change.
    """
    stamp = _stamp(spec)
    if (known := _annotated.get(spec)) is None or known[0] != stamp:
        content, images = format_of(spec).listing(spec)
        pairs = () if spec.flip_pairs is None else (spec.flip_pairs,)
        digest = hashlib.sha256(repr((spec.format, spec.classes, *pairs)).encode())
        digest.update(hashlib.sha256(content).digest())
        _annotated[spec] = known = stamp, digest, images
    return known[1].copy(), known[2]


def examine(spec: DatasetSpec) -> tuple[Contents | None, Faults]:
    """Reads a split and checks the consistency of everything but pixels.

    Returns:
        What was read (None if nothing could be read), and all faults.
    """
    faults = Faults()
    try:
        contents = format_of(spec).read(spec, faults)
    except (DatasetError, OSError) as error:
        faults.error(str(error))
        return None, faults
    for record in contents.records:
        image = os.path.basename(record["file_name"])
        for annotation in record["annotations"]:
            label = f"{image} {contents.classes[annotation['category_id']]}"
            check_box(annotation["bbox"], record["width"], record["height"], label, faults)
    if contents.records and not format_of(spec).counts(contents):
        faults.unannotated("no object is annotated that counts in evaluation")
    return contents, faults


_opened: dict[DatasetSpec, tuple[_Stamp, Dataset]] = {}


def open_dataset(spec: DatasetSpec) -> Dataset:
    """Returns the data set, read and validated; it is the same object as long as its annotation files do not change.

    Raises:
        DatasetError: the data set cannot be used; one message gives all reasons.
    """
    stamp = _stamp(spec)
    if (known := _opened.get(spec)) is not None and known[0] == stamp:
        return known[1]
    contents, faults = examine(spec)
    place = format_of(spec).place(spec)
    refuse(spec.name, place, faults.problems, ("error",), spec.remedy)
    assert contents is not None  # else there is an error
    problems = tuple(faults.problems)
    for problem in problems:
        logger.log(logging.INFO if problem.level == "note" else logging.WARNING, "'%s': %s", place, problem)
    dataset = Dataset(
        spec, contents.classes, contents.category_ids, PackedRecords(contents.records), problems, contents.truth,
        contents.missing, contents.keypoints, contents.left_out,
    )  # fmt: skip
    _opened[spec] = stamp, dataset
    return dataset


def _stamp(spec: DatasetSpec) -> _Stamp:
    """Returns the size and time of every annotation file, which tell whether a file was changed."""
    found = []
    for path in format_of(spec).sources(spec):
        try:
            stat = os.stat(path)
        except OSError:
            continue
        found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def check_classes(classes: Mapping[str, Sequence[str]]) -> None:
    """Checks that data sets that are used together, in training and test, have the same classes.

    Args:
        classes: data set -> its class names by contiguous id.

    Raises:
        DatasetError: two sets differ in a name or in the order, so that one's classes would count as the other's.
    """
    if fault := classes_differ(classes):
        raise DatasetError(fault)


def classes_differ(classes: Mapping[str, Sequence[str]]) -> str | None:
    """Says in a sentence how the classes of data sets differ by name or order; returns None if they agree."""
    if not classes:
        return None
    (first, names), *others = classes.items()
    for other, theirs in others:
        if tuple(theirs) == tuple(names):
            continue
        if sorted(theirs) == sorted(names):
            what = f"stand in another order ({few(names, 6)} against {few(theirs, 6)})"
        else:
            alone = {first: [n for n in names if n not in theirs], other: [n for n in theirs if n not in names]}
            what = "differ: " + "; ".join(f"only '{name}' has {few(own, 6)}" for name, own in alone.items() if own)
        return (
            f"the classes of data sets '{first}' and '{other}' {what}; give all sets of DATASETS.TRAIN and TEST the "
            "same classes in the same order, by `classes` of their spec files or the categories' ids"
        )
    return None
