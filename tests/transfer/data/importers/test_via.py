"""VIA's dialects: project, annotations, version 1, CSV."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.transfer.data.importers.sources import via_images, via_region, via_source, write_csv
from transfer.data.faults import Faults
from transfer.data.importers.importer import Options, Part
from transfer.data.importers.objects import objects
from transfer.data.importers.via import VIA
from transfer.data.spec import DatasetError


def read(source: Path, **options: Any) -> Part:
    faults = Faults()
    (part,) = VIA().read(source, Options(**options), faults)
    assert not faults.problems, faults.problems
    return part


def test_all_its_files_say_the_same(tmp_path: Path) -> None:
    images = via_images()
    plain = [(s.file_name, [(x.kind, x.values, x.label) for x in s.shapes]) for s in read(via_source(tmp_path)).sheets]
    assert [name for name, _ in plain] == ["a.jpg", "img/b.png"] and [len(shapes) for _, shapes in plain] == [2, 2]
    old = {key: {**v, "regions": {str(i): r for i, r in enumerate(v["regions"])}} for key, v in images.items()}
    ticked = json.loads(json.dumps(images))
    for image in ticked.values():
        for region in image["regions"]:
            region["region_attributes"] = {"kind": {region["region_attributes"]["kind"]: True, "odd": False}}
    for content in ({"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}}, old, ticked):
        found = read(via_source(tmp_path, content)).sheets
        assert [(s.file_name, [(x.kind, x.values, x.label) for x in s.shapes]) for s in found] == plain
    for mark in ("", "#", "\ufeff"):
        *found, empty = read(write_csv(tmp_path / "via.csv", mark)).sheets
        assert [(s.file_name, [(x.kind, x.values, x.label) for x in s.shapes]) for s in found] == plain
        assert empty.file_name == "empty.jpg" and empty.shapes == ()


def test_a_turned_ellipse(tmp_path: Path) -> None:
    ellipse = via_region("cat", "ellipse", cx=20, cy=15, rx=10, ry=4, theta=math.pi / 2)
    (sheet,) = read(via_source(tmp_path, {"a": {"filename": "a.jpg", "regions": [ellipse]}})).sheets
    (found,) = objects(sheet, (40, 30), (), Faults())
    assert found.box == pytest.approx((16, 5, 24, 25))
    assert found.area((40, 30)) == pytest.approx(10 * 4 * math.pi, abs=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"project": {}, "file": {}, "metadata": {}}, "is a project of VIA 3"),
        ([], "is no json of VIA"),
        ({"a": {"filename": "a.jpg"}}, "not every image has 'regions'"),
        ({"a": {"filename": 3, "regions": []}}, "has the filename 3, which is none, or twice"),
        ({}, "lists no image"),
        ({"a": {"filename": "a.jpg", "regions": 3}}, "regions of 'a.jpg' are 3"),
        ({"a": {"filename": "a.jpg", "regions": [via_region("c", "rect"), {"region_attributes": {"b": 1}}]}},
         "which attribute is the class? regions have kind, b; name it by --attribute"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_via(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        read(via_source(tmp_path, content))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (via_region("cat", "polyline", all_points_x=[1, 2], all_points_y=[1, 2]), "shape 'polyline', which encloses"),
        (via_region("cat", "point", cx=1, cy=2), "shape 'point', which encloses nothing"),
        (via_region("cat", "rect", x=1, y=2), "rect with a coordinate that is no finite number"),
        (via_region("cat", "polygon"), "polygon with a coordinate that is no finite number"),
        (via_region("cat", "polygon", all_points_x=[1, 2], all_points_y=[1]), "2 numbers in all_points_x, 1 in"),
        (via_region({"a": True, "b": True}, "circle", cx=1, cy=1, r=1), "which is no name of a class"),
        ({"shape_attributes": {}, "region_attributes": {"kind": "cat"}}, "shape_attributes are {}, without a name"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, region: Any, message: str) -> None:
    source, faults = via_source(tmp_path, {"a": {"filename": "a.jpg", "regions": [region]}}), Faults()
    (part,) = VIA().read(source, Options(), faults)
    for sheet in part.sheets:
        objects(sheet, (40, 30), (), faults)
    (problem,) = faults.problems
    assert message in str(problem) and f"{source} a.jpg region 0" in str(problem)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "C:\\x\\a.jpg", "a\0b", "", "\ud800"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    faults = Faults()
    (part,) = VIA().read(via_source(tmp_path, {"a": {"filename": name, "regions": []}}), Options(), faults)
    assert not part.sheets and str(tmp_path) in str(faults.problems[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first row lacks filename"),
        ("filename,x\n", "its first row lacks region_shape_attributes"),
        ("filename,region_shape_attributes,region_attributes\na,b\n", "a row has 2 fields, the first one 3"),
        ("filename,region_shape_attributes,region_attributes\na,{,b\n", "is no CSV of VIA"),
        ('filename,region_shape_attributes,region_attributes\n"a', "is no CSV of VIA"),
    ],
)
def test_what_is_no_csv_of_via(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "via.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path / "via.csv")
