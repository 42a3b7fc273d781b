"""A data set opened: read and validated once per process, then handed on to loaders, evaluators, linter and report.

What is wrong is found here, in one place, before anything is computed: `doctor.check` shows all of it, `open_dataset`
refuses what cannot be trained on, `Dataset.check_scorable` what cannot be scored.
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
    """One split, read and validated. Its records are packed: what one asks for is a fresh dict each time.

    Attributes:
        classes: names by contiguous category id.
        category_ids: the ids that result files use, by contiguous id.
        records: one per image, in the data set's order; see `catalog.load`.
        problems: what is wrong with it without stopping every use, the worst first.
        truth: what the format's protocols need beside the records.
        missing: positions in `records` of images whose file is not there.
        keypoints: that every object may have; None if the set has none.
        left_out: annotated objects that the records lack, see `format.Contents`.
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
        """Names of the protocols that can score it."""
        return format_of(self.spec).protocols(self.spec)

    @property
    def notes(self) -> list[str]:
        """What was mended on reading it, for the notes of a result."""
        return [f"data set '{self.name}': {p.what}" for p in self.problems if p.level == "note"]

    @cached_property
    def order(self) -> Mapping[str | int, int]:
        """Image id -> position in `records`."""
        return {record["image_id"]: i for i, record in enumerate(self.records)}

    @cached_property
    def annotation_digest(self) -> str:
        """Hex digest (16 digits) of classes, metric, split and annotation bytes; its images may be gone."""
        return annotated(self.spec)[0].hexdigest()[:16]

    def check_scorable(self) -> None:
        """Raises DatasetError for a set on which even perfect predictions would not score 100."""
        levels: tuple[Level, ...] = ("unscorable", "unannotated")
        refuse(self.name, format_of(self.spec).place(self.spec), self.problems, levels, self.spec.remedy)

    @property
    def unannotated(self) -> bool:
        """Whether there is nothing to score against, such as in COCO's image_info_test-dev2017.json."""
        return any(problem.level == "unannotated" for problem in self.problems)


_Stamp = tuple[tuple[str, int, int], ...]
_annotated: dict[DatasetSpec, tuple[_Stamp, Any, Sequence[tuple[str, Path]]]] = {}


def annotated(spec: DatasetSpec) -> tuple[Any, Sequence[tuple[str, Path]]]:
    """A SHA-256 of what is annotated, which more can be added to, and the images: (name, file).

    Annotations are read once, as long as their files do not change.
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
    """Reads a split and holds everything but pixels against each other.

    Returns:
        What was read (None if nothing could be), and all that is wrong with it.
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
    """Returns the data set, read and validated; the same object again as long as its annotation files do not change.

    Raises:
        DatasetError: it cannot be used, all reasons in one message.
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
    """Size and time of every annotation file, which tell whether they were changed."""
    found = []
    for path in format_of(spec).sources(spec):
        try:
            stat = os.stat(path)
        except OSError:
            continue
        found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def check_classes(classes: Mapping[str, Sequence[str]]) -> None:
    """Holds the classes of data sets that are trained and tested on together against each other.

    Args:
        classes: data set -> its class names by contiguous id.

    Raises:
        DatasetError: two of them differ in a name or in the order, so that one's classes would count as the other's.
    """
    if fault := classes_differ(classes):
        raise DatasetError(fault)


def classes_differ(classes: Mapping[str, Sequence[str]]) -> str | None:
    """Says in a sentence how the classes of data sets differ by name or order; None if they agree."""
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
