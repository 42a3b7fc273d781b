"""The generated set as LVIS and Cityscapes lay theirs out: of the same objects, and usable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from transfer.data import catalog, doctor
from transfer.data.cityscapes import THINGS, read_ids
from transfer.data.generated import CLASS_NAMES, write
from transfer.data.segmentation import area


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set") / "generated"
    write(root, iconic_train=0, iconic_val=0, scenes_trainval=60, scenes_test=8)
    return root


def opened(root: Path, name: str) -> catalog.Dataset:
    return catalog.open_dataset(catalog.read_spec_file(root / f"{name}.yaml")[0])


def test_lvis_is_coco_thinned_out(root: Path) -> None:
    tail, coco = opened(root, "lvis"), opened(root, "coco")
    assert tail.classes == coco.classes == CLASS_NAMES
    seen: Counter[str] = Counter()
    for i, (few, all_) in enumerate(zip(tail.records, coco.records, strict=True)):
        assert few["file_name"] == all_["file_name"]
        kept, whole = ({a["category_id"] for a in r["annotations"]} for r in (few, all_))
        absent, partial = set(tail.truth.absent[i]), set(tail.truth.partial[i])
        assert kept <= whole and not absent & whole and partial <= kept
        boxes = [a["bbox"] for a in all_["annotations"]]
        assert all(a["bbox"] in boxes for a in few["annotations"])
        for c in kept - partial:
            counts = [sum(a["category_id"] == c for a in r["annotations"]) for r in (few, all_)]
            assert counts[0] == counts[1]
        seen.update(CLASS_NAMES[c] for c in kept)
    assert any(tail.truth.partial) and any(tail.truth.absent)
    assert seen[CLASS_NAMES[0]] > 3 * seen[CLASS_NAMES[-1]] > 0


def test_cityscapes_has_the_same_objects(root: Path) -> None:
    streets, coco = opened(root, "cityscapes"), opened(root, "coco")
    assert streets.classes == tuple(THINGS) and len(streets.records) == 15
    by_id = {f"{r['image_id']:06d}": r for r in coco.records}
    groups = 0
    for record, path in zip(streets.records, streets.truth, strict=True):
        ids, other = read_ids(path), by_id[record["image_id"]]
        assert ids.shape == (record["height"], record["width"]) == (other["height"], other["width"])
        areas = Counter[int]()
        for annotation in other["annotations"]:
            areas[annotation["category_id"]] += int(area(annotation["segmentation"], *ids.shape))
        mine = Counter[int]()
        for annotation in record["annotations"]:
            mine[annotation["category_id"]] += int(area(annotation["segmentation"], *ids.shape))
            groups += annotation["iscrowd"]
        assert set(mine) == set(areas) and all(abs(mine[c] - areas[c]) <= 0.3 * areas[c] + 30 for c in mine)
    assert groups


@pytest.mark.parametrize("name", ["lvis", "cityscapes"])
def test_the_doctor_finds_nothing(root: Path, name: str) -> None:
    for spec in catalog.read_spec_file(root / f"{name}.yaml"):
        report = doctor.check(spec)
        assert report.ok, str(report)
    assert np.isfinite(sum(report.boxes.values()))
