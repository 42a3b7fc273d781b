"""Pascal VOC's XMLs beside their images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.transfer.data.importers.test_to_coco import objects, run
from tests.transfer.data.sets import CAT, DOG, picture, voc_object
from transfer.data.faults import Faults
from transfer.data.importers.importer import Options
from transfer.data.importers.voc_files import VOCFiles
from transfer.data.spec import DatasetError


def write(path: Path, *found: str, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    stated = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>elsewhere.jpg</filename>{stated}{''.join(found)}</annotation>")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("a.JPG", "deep/b.png", "unseen.jpg"):
        picture(tmp_path / "photos" / name)
    write(tmp_path / "photos" / "a.xml", voc_object(CAT, (3, 4, 12, 23)), voc_object(DOG, (1, 1, 40, 30), 1))
    write(tmp_path / "photos" / "deep" / "b.xml")
    return tmp_path / "photos"


def test_xmls_beside_their_images(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted from 1 there, from 0 here, as the VOC layout is read."""
    out = tmp_path / "pets"
    assert run("voc", source, "--output", out) == 0
    assert f"note: images without an XML, left out: {source}/unseen.jpg" in capsys.readouterr().out
    cat, dog = ("a.JPG", CAT, [2, 3, 10, 20], 200, 0), ("a.JPG", DOG, [0, 0, 40, 30], 1200, 0)
    assert objects(out / "annotations" / "all.json") == [cat, dog]
    assert len(json.loads((out / "annotations" / "all.json").read_text())["images"]) == 2
    assert run("voc", source, "--output", out, "--force", "--leave-out", "difficult") == 0
    assert objects(out / "annotations" / "all.json") == [cat]
    assert "note: shapes 'difficult', left out" in capsys.readouterr().out


def test_an_xml_has_one_image(source: Path) -> None:
    """That of the first suffix, as in the VOC layout."""
    picture(source / "a.png")
    faults = Faults()
    (part,) = VOCFiles().read(source, Options(), faults)
    assert [sheet.file_name for sheet in part.sheets] == ["a.JPG", "deep/b.png"]
    said = [str(problem) for problem in faults.problems]
    assert f"note: images that differ from another in the suffix alone, left out: {source}/a.png" in said


def test_what_is_wrong(source: Path, tmp_path: Path) -> None:
    write(source / "lonely.xml")
    (source / "unseen.xml").write_text("<annotation>")
    (source / "a.xml").unlink()
    os.mkfifo(source / "a.xml")
    faults = Faults()
    VOCFiles().read(source, Options(), faults)
    said = "\n".join(map(str, faults.problems))
    assert f"XML without an image of its name beside it: {source}/lonely.xml" in said
    assert "unseen.xml' is no well-formed XML" in said and f"{source}/a.xml" in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no XML"):
        VOCFiles().read(tmp_path / "empty", Options(), faults)
