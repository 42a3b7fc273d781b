"""labelme's dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.transfer.data.importers.sources import TRIANGLE, labelme_json, labelme_shape
from tests.transfer.data.sets import picture
from transfer.data.faults import Faults
from transfer.data.importers.importer import Options
from transfer.data.importers.labelme import Labelme
from transfer.data.importers.objects import Object, objects
from transfer.data.spec import DatasetError

SIZE = (40, 30)


def read(root: Path, *shapes: Any, left_out: tuple[str, ...] = ()) -> tuple[list[Object], str]:
    """The objects of one image, and all faults."""
    labelme_json(root / "a.json", "a.jpg", *shapes)
    faults = Faults()
    (part,) = Labelme().read(root, Options(), faults)
    found = [o for sheet in part.sheets for o in objects(sheet, SIZE, left_out, faults)]
    return found, "\n".join(map(str, faults.problems))


def test_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    other = [[20, 1], [24, 1], [24, 5]]
    found, said = read(
        tmp_path,
        labelme_shape("cat", "polygon", TRIANGLE, group_id=1),
        labelme_shape("dog", "polygon", other, group_id=1),
        labelme_shape("cat", "polygon", other, group_id=1),
        labelme_shape("cat", "polygon", other),
    )
    assert not said and [(o.label, len(o.polygons), o.area(SIZE)) for o in found] == [
        ("cat", 2, 106), ("dog", 1, 6), ("cat", 1, 6),
    ]  # fmt: skip
    assert found[0].box == (2, 1, 24, 23)
    found, said = read(
        tmp_path,
        labelme_shape("cat", "polygon", TRIANGLE, group_id=1),
        labelme_shape("cat", "rectangle", [[1, 1], [2, 2]], group_id=1),
    )
    assert "rectangles and polygons in one group" in said


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (labelme_shape("cat", "line", [[1, 1], [2, 2]]), "shape 'line', which encloses nothing"),
        (labelme_shape("cat", "\x1b[2J", []), "shape '\\x1b[2J'"),
        (labelme_shape("cat", "polygon", [[1, 1], [2, 2]]), "polygon of too few or too many points"),
        (labelme_shape("cat", "rectangle", [[1, 1]]), "rectangle of too few or too many points"),
        (labelme_shape("cat", "circle", [[1, 1], [1, 1]]), "circle with a radius that is not above 0"),
        (labelme_shape("cat", "polygon", [[1, 1], [2, "2"], [3, 3]]), "a coordinate that is no finite number"),
        (labelme_shape("cat", "polygon", [[1, 1], [2, float("nan")], [3, 3]]), "a coordinate that is no finite number"),
        (labelme_shape("cat", "rectangle", [[1, 1], [2, 1e300]]), "lies far outside its image"),
        (labelme_shape("cat", "rectangle", [[41, 1], [43, 5]]), "rectangle: box wholly outside its image"),
        (labelme_shape("cat", "polygon", [[1, -3], [9, -1], [5, 0]]), "polygon: box wholly outside its image"),
        (labelme_shape("cat", "rectangle", [[5, 5], [90, 9]]), "rectangle: box that reaches far over its image"),
        (labelme_shape("cat", "polygon", [1, 2]), "points are [1, 2], not a list of [x, y]"),
        (labelme_shape("", "polygon", TRIANGLE), "label '': give a printable name"),
        (labelme_shape("cat ", "polygon", TRIANGLE), "label 'cat ': give a printable name without spaces around it"),
        (labelme_shape(["cat"], "polygon", TRIANGLE), "label ['cat'], which is no name of a class"),
        (labelme_shape("cat", "polygon", TRIANGLE, group_id=[1]), "group_id [1] is none of labelme's"),
        ("cat", "is 'cat', not an object with keys"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, shape: Any, message: str) -> None:
    found, said = read(tmp_path, shape)
    assert not found and message in said and f"{tmp_path}/a.json" in said


def test_shapes_are_left_out_when_asked_for(tmp_path: Path) -> None:
    shapes = labelme_shape("cat", "polygon", TRIANGLE), labelme_shape("cat", "point", [[1, 1]])
    found, said = read(tmp_path, *shapes, left_out=("point",))
    assert len(found) == 1 and said.startswith("note: shapes 'point', left out")


def test_images_without_a_json_are_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "below/c.png"):
        picture(tmp_path / name)
    found, said = read(tmp_path, labelme_shape("cat", "polygon", TRIANGLE))
    assert len(found) == 1 and said.startswith("note: images without a json, left out [2x]: ")
    (tmp_path / "b.json").write_text("{}")
    assert "left out" not in read(tmp_path, labelme_shape("cat", "polygon", TRIANGLE))[1]


def test_other_jsons_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "._d.json").write_text("{")
    _, said = read(tmp_path, labelme_shape("cat", "polygon", TRIANGLE))
    assert "b.json' is no json of labelme" in said and "c.json' is no json" in said and "_d" not in said
    with pytest.raises(DatasetError, match="holds no json"):
        (tmp_path / "empty").mkdir()
        Labelme().read(tmp_path / "empty", Options(), Faults())
