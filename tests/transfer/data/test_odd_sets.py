"""Sets with random oddities: refused before anything is trained, or perfect predictions score 100 in every metric.

The oracle for COCO sets is pycocotools on the same annotations, renumbered from 1 by code of this file.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.transfer.data.sets import voc_object, voc_split
from transfer.data import catalog, doctor
from transfer.data.catalog import DatasetError, DatasetSpec
from transfer.evaluation.predictions import load_coco_json
from transfer.tasks.instances import INSTANCES

W, H = 64, 48
CLASSES = ("disc", "bar", "ring")
Json = dict[str, Any]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "JPEGImages"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (W, H), (40 * i, 90, 120)).save(folder / f"{i}.png")
    return folder


def plain(r: random.Random) -> Json:
    """A sound set: every class has an object, boxes lie within their images and are no copies of each other."""
    annotations, boxes = [], set()
    for number in range(8):
        w, h = r.randint(2, 40), r.randint(2, 30)
        x, y = r.randint(0, W - w), r.randint(0, H - h)
        if (x, y, w, h) in boxes:
            continue
        boxes.add((x, y, w, h))
        annotations.append(
            {
                "id": number + 1, "image_id": number % 4 + 1, "category_id": number % 3 + 1, "iscrowd": 0,
                "bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )  # fmt: skip
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "width": W, "height": H} for i in range(4)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }


def renumber(key: str, rule: Callable[[int], Any]) -> Callable[[Json, random.Random], None]:
    def change(data: Json, r: random.Random) -> None:
        for entry in data["annotations"]:
            entry[key] = rule(entry[key])
        for entry in data["images"] if key == "image_id" else data["categories"] if key == "category_id" else ():
            entry["id"] = rule(entry["id"])

    return change


def one(**values: Any) -> Callable[[Json, random.Random], None]:
    """Sets keys of one annotation; a value of `...` removes the key."""

    def change(data: Json, r: random.Random) -> None:
        entry = r.choice(data["annotations"])
        for key, value in values.items():
            entry.pop(key, None) if value is ... else entry.__setitem__(key, copy.deepcopy(value))

    return change


def every(**values: Any) -> Callable[[Json, random.Random], None]:
    def change(data: Json, r: random.Random) -> None:
        for entry in data["annotations"]:
            for key, value in values.items():
                entry.pop(key, None) if value is ... else entry.__setitem__(key, copy.deepcopy(value))

    return change


def as_rle(data: Json, r: random.Random) -> None:
    for entry in data["annotations"]:
        rle = mask_util.merge(mask_util.frPyObjects(entry["segmentation"], H, W))
        entry["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def crowd(data: Json, r: random.Random) -> None:
    as_rle(data, r)
    times = Counter(a["category_id"] for a in data["annotations"])
    r.choice([a for a in data["annotations"] if times[a["category_id"]] > 1])["iscrowd"] = 1


def image(**values: Any) -> Callable[[Json, random.Random], None]:
    return lambda data, r: data["images"][r.randint(1, 3)].update(values)


def category(**values: Any) -> Callable[[Json, random.Random], None]:
    return lambda data, r: data["categories"][r.randint(1, 2)].update(values)


GOOD: list[Callable[[Json, random.Random], None]] = [
    renumber("id", lambda i: i - 1), renumber("id", lambda i: -i), renumber("id", lambda i: 2**70 + i),
    renumber("id", lambda i: f"a{i}"), renumber("id", lambda i: i + 0.5), every(id=...),
    renumber("image_id", lambda i: i - 1), renumber("image_id", lambda i: f"im{i}"),
    renumber("image_id", lambda i: i / 4), renumber("image_id", lambda i: 10**30 + i),
    renumber("category_id", lambda i: 10 * i), renumber("category_id", lambda i: i - 1),
    renumber("category_id", lambda i: f"c{i}"), every(area=...), every(area=0), one(area=...), every(iscrowd=...),
    every(segmentation=...), as_rle, crowd, lambda data, r: r.shuffle(data["annotations"]),
    lambda data, r: r.shuffle(data["images"]), lambda data, r: data["categories"].reverse(),
    one(bbox=[-1, 3, 20, 20], area=400),
    lambda data, r: data["annotations"].append(dict(data["annotations"][0], id=99)),
]  # fmt: skip
BAD: list[Callable[[Json, random.Random], None]] = [
    one(bbox=["1", "2", "33", "4"]), one(bbox=[math.nan] * 4), one(bbox=[1, 2, math.inf, 4]), one(bbox=None),
    one(bbox=[1, 2, 3]), one(bbox=[10, 10, -5, 5]), one(bbox=[10, 10, 0, 5]), one(bbox=[500, 10, 5, 5]),
    one(bbox=[0.1, 0.1, 0.5, 0.4]), one(bbox=[0, 0, 1e30, 1e30]), one(bbox=[True, 1, 2, 3]), one(iscrowd=None),
    one(iscrowd=2), one(iscrowd="0"), one(area=-1), one(area="12"), one(area=math.nan), one(category_id=7),
    one(category_id="1"), one(category_id=[1]), one(image_id="1"), one(image_id=None), one(id=None), every(id=4),
    one(segmentation=[1, 1, 20, 1, 20, 20]), one(segmentation=5), one(segmentation=[[[1, 1], [20, 1], [20, 20]]]),
    one(segmentation=[["1", 1, 20, 1, 20, 20]]), one(segmentation="abc"),
    one(segmentation=[[1, 1, 20, 1, 20, math.nan]]), one(segmentation=[[1e30] * 6]),
    one(segmentation={"counts": [0, 10]}), one(segmentation={"size": [W, H], "counts": [W * H]}),
    one(segmentation={"size": [H, W], "counts": [0, 10]}), one(segmentation={"size": [H, W], "counts": "zz"}),
    one(segmentation={"size": [H, W], "counts": [-5, W * H + 5]}), image(width=str(W)), image(width=None),
    image(height=0), image(width=W + 1), image(file_name=None), image(file_name="gone.png"),
    image(file_name="../JPEGImages/0.png"), image(file_name="a\0.png"), image(id=1), image(id=None), image(id=[1]),
    image(id="x"), category(id=1), category(name="disc"), category(name=None), category(name=""), category(id=None),
    category(id=1.5), lambda data, r: data.update(images=[], annotations=[]),
    lambda data, r: data.update(annotations=[]), lambda data, r: data.update(categories=[]),
    lambda data, r: data["annotations"].append(None), lambda data, r: data["images"].append(3), one(ignore=1),
    one(area=1e11), one(bbox=[50, 30, -20, -20], segmentation=[[1, 2, 3]]), every(iscrowd=1),
    lambda data, r: data["images"].append(dict(data["images"][0], id=99, file_name="./0.png")),
    one(segmentation={"size": [H, W], "counts": "\u20ac"}), one(bbox=[10**308, 0, 10**308, 5]),
    one(bbox=[-40, 3, 50, 20]), one(bbox=[60, 3, 1e-6, 20]),
    lambda data, r: [renumber("image_id", float)(data, r), data["annotations"][0].update(image_id="1")],
]  # fmt: skip


def coco_spec(folder: Path, images: Path, data: Json) -> DatasetSpec:
    path = folder / "a.json"
    path.write_text(json.dumps(data))
    return DatasetSpec("odd", "coco", folder, "s", image_root=images, json_file=path)


def oracle(data: Json, kind: str) -> list[float]:
    """pycocotools' six AP of detections equal to the annotations, all ids counted from 1."""
    order = {i["id"]: n for n, i in enumerate(sorted(data["images"], key=lambda i: i["id"]), 1)}
    kinds = {c["id"]: n for n, c in enumerate(sorted(data["categories"], key=lambda c: c["id"]), 1)}
    truth, results = COCO(), []
    annotations = []
    for number, a in enumerate(data["annotations"], 1):
        x, y, w, h = a["bbox"]
        mask = a.get("segmentation") or [[x, y, x + w, y, x + w, y + h, x, y + h]]
        rle = mask if isinstance(mask, dict) else mask_util.merge(mask_util.frPyObjects(mask, H, W))
        size = a.get("area") or (float(mask_util.area(rle)) if a.get("segmentation") else w * h)
        ids = {"image_id": order[a["image_id"]], "category_id": kinds[a["category_id"]]}
        annotations.append(
            {**ids, "id": number, "bbox": a["bbox"], "area": size, "iscrowd": a.get("iscrowd", 0), "segmentation": mask}
        )
        results.append({**ids, "score": 0.9, **({"bbox": a["bbox"]} if kind == "bbox" else {"segmentation": rle})})
    images = [{"id": n, "width": W, "height": H} for n in order.values()]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations,
                     "categories": [{"id": n, "name": str(n)} for n in kinds.values()]}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * v if v >= 0 else math.nan for v in evaluation.stats[:6]]


def perfect(data: Json, path: Path, masks: bool) -> None:
    results = []
    for a in data["annotations"]:
        result = {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        if masks:
            mask = a["segmentation"]
            rle = mask if isinstance(mask, dict) else mask_util.merge(mask_util.frPyObjects(mask, H, W))
            counts = rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode()
            result["segmentation"] = {"size": list(rle["size"]), "counts": counts}
        results.append(result)
    path.write_text(json.dumps(results))


@pytest.mark.parametrize("seed", range(40))
def test_coco_sets_that_load_are_scored_as_pycocotools_scores_them(seed: int, images: Path, tmp_path: Path) -> None:
    r = random.Random(seed)
    data = plain(r)
    for change in r.sample(GOOD, r.randint(0, 3)):
        with contextlib.suppress(KeyError, TypeError):  # two changes may not go together, such as ids that are gone
            change(data, r)
    spec = coco_spec(tmp_path, images, data)
    dataset = catalog.open_dataset(spec)
    dataset.check_scorable()
    assert doctor.check(spec).scorable
    masks = all(a.get("segmentation") for a in data["annotations"])
    perfect(data, tmp_path / "p.json", masks)
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset, masks=masks)
    evaluator.merge([load_coco_json(tmp_path / "p.json", dataset.category_ids)])
    scores = evaluator.scores()
    for kind in ("bbox", "segm") if masks else ("bbox",):
        ours = [scores.metrics[f"{kind}/{name}"] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        assert np.allclose(ours, oracle(data, kind), atol=1e-9, equal_nan=True)
        assert ours[0] == pytest.approx(100) and all(math.isnan(v) or v == pytest.approx(100) for v in ours)
    assert all(key in scores.undefined for key, value in scores.metrics.items() if math.isnan(value))


@pytest.mark.parametrize("number", range(len(BAD)))
def test_coco_sets_that_cannot_be_scored_are_refused_and_the_doctor_says_so(
    number: int, images: Path, tmp_path: Path
) -> None:
    r = random.Random(number)
    data = plain(r)
    BAD[number](data, r)
    spec = coco_spec(tmp_path, images, data)
    report = doctor.check(spec)
    assert not report.scorable and not str(report).endswith("  ok"), report
    if any("image size differs" in problem.what for problem in report.problems):
        return  # which takes a look at the pixels
    with pytest.raises(DatasetError) as error:
        catalog.open_dataset(spec).check_scorable()
    assert "odd" in str(error.value) or "a.json" in str(error.value)


def voc_spec(folder: Path, images: Path, objects: list[list[str]], lines: list[str] | None = None) -> DatasetSpec:
    (folder / "Annotations").mkdir()
    (folder / "JPEGImages").symlink_to(images)
    for i, found in enumerate(objects):
        text = f"<annotation><size><width>{W}</width><height>{H}</height></size>{''.join(found)}</annotation>"
        (folder / "Annotations" / f"{i}.xml").write_text(text)
    voc_split(folder, "s", *(lines or [str(i) for i in range(len(objects))]))
    return DatasetSpec("odd_s", "voc", folder, "s", CLASSES, 2007 if len(objects) % 2 else 2012)


@pytest.mark.parametrize("seed", range(20))
def test_voc_sets_that_load_give_perfect_detections_100(seed: int, images: Path, tmp_path: Path) -> None:
    """Whole pixels, decimals, small and touching objects, difficult ones, lists with extensions and comments."""
    r = random.Random(seed)
    decimals, objects, results, seen = r.random() < 0.5, [], [], set()
    for i in range(r.choice((3, 4))):
        found = []
        for number in range(6):
            w, h = (r.uniform(1.2, 40), r.uniform(1.2, 30)) if decimals else (r.randint(1, 40), r.randint(1, 30))
            x = r.uniform(1, W - w) if decimals else r.randint(1, W - w)
            y = r.uniform(1, H - h) if decimals else r.randint(1, H - h)
            box = tuple(round(v, 2) for v in (x, y, x + w, y + h))
            difficult = int(number > 2 and r.random() < 0.3)
            if (i, number % 3, box) in seen:
                continue
            seen.add((i, number % 3, box))
            found.append(voc_object(CLASSES[number % 3], box, difficult))
            if not difficult:
                x0, y0, x1, y1 = box[0] - 1, box[1] - 1, *box[2:]
                results.append({"image_id": str(i), "category_id": number % 3 + 1, "score": 0.9,
                                "bbox": [x0, y0, x1 - x0, y1 - y0]})  # fmt: skip
        objects.append(found)
    lines = [r.choice((f"{i}", f"{i}.png", f"{i}.JPG  # first", f"  {i} ")) for i in range(len(objects))]
    spec = voc_spec(tmp_path, images, objects, lines)
    dataset = catalog.open_dataset(spec)
    dataset.check_scorable()
    (tmp_path / "p.json").write_text(json.dumps(results))
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset)
    evaluator.merge([load_coco_json(tmp_path / "p.json", dataset.category_ids)])
    assert all(value == pytest.approx(100) for value in evaluator.scores().metrics.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_object("disc", (1, 1, math.nan, 9)), "<xmax> in <bndbox> is 'nan', not a number"),
        (voc_object("disc", (0.1, 0.1, 0.5, 0.4)), "normalised coordinates"),
        (voc_object("disc", (9, 1, 4, 9)), "negative width"),
        (voc_object("disc", (200, 1, 210, 9)), "wholly outside"),
        (voc_object("disc", (5, 5, 4, 9)), "without area"),
        (voc_object("disc", (5, 5, 9, 9)) * 2, "annotated twice"),
        (voc_object("disc", (-40, 5, 10, 9)), "less than half lies in its image"),
        (voc_object("disc", (5, 5, 9, 9), 3), "<difficult> in <object> is 3"),
        (voc_object("dsic", (5, 5, 9, 9)), "'dsic' is not listed; did you mean disc"),
        ("<object><name>disc</name></object>", "lacks <name> or <bndbox>"),
    ],
)
def test_voc_annotations_that_are_refused(text: str, message: str, images: Path, tmp_path: Path) -> None:
    spec = voc_spec(tmp_path, images, [[voc_object("bar", (1, 1, 5, 5))], [text]])
    assert not doctor.check(spec).scorable
    with pytest.raises(DatasetError, match=message):
        catalog.open_dataset(spec).check_scorable()


@pytest.mark.parametrize("text", ["", voc_object("bar", (1, 1, 5, 5), 1), "<Object><name>bar</name></Object>"])
def test_a_voc_set_without_anything_that_counts_is_no_test_set(text: str, images: Path, tmp_path: Path) -> None:
    spec = voc_spec(tmp_path, images, [[text]])
    assert doctor.check(spec).ok and not doctor.check(spec).scorable
    with pytest.raises(DatasetError, match="no object is annotated that counts"):
        catalog.open_dataset(spec).check_scorable()


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [([0.1, 10, 20, 20], [0.1, 10, 20, 10.0], 100), ([0, 10, 20, 20], [0, 10, 20, 9.99999999], 0)],
)
def test_saved_numbers_are_scored_as_written(
    truth: list[float], found: list[float], expected: float, images: Path, tmp_path: Path
) -> None:
    """An IoU of exactly one half finds the object, as in pycocotools, one that float32 rounds to it does not."""
    data = plain(random.Random(0))
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": truth, "area": truth[2] * truth[3], "iscrowd": 0}
    dataset = catalog.open_dataset(coco_spec(tmp_path, images, data | {"annotations": [entry]}))
    (tmp_path / "p.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": found, "score": 0.9}]))
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset)
    evaluator.merge([load_coco_json(tmp_path / "p.json", dataset.category_ids)])
    assert evaluator.scores().metrics["bbox/AP50"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("head", "encoding", "message"),
    [
        ('<?xml version="1.0" encoding="gb2312"?>', "gb2312", None),
        ('<?xml version="1.0" encoding="utf-16"?>', "utf-16", None),
        ('<?xml version="1.0"?>', "utf-8-sig", None),
        ('<?xml version="1.0" encoding="gb2312"?>', "latin-1", "not in the encoding that it declares"),
        ("", "latin-1", "not in UTF-8"),
        ('<?xml version="1.0" encoding="klingon"?>', "utf-8", "not in the encoding that it declares"),
        ('<!DOCTYPE a [<!ENTITY x "y">]>', "utf-8", "declares a document type"),
    ],
)
def test_encodings_of_annotations(head: str, encoding: str, message: str, images: Path, tmp_path: Path) -> None:
    spec = voc_spec(tmp_path, images, [[voc_object("bar", (1, 1, 5, 5))]])
    path = tmp_path / "Annotations" / "0.xml"
    folder = "<folder>\u4e2d</folder>" if encoding.startswith(("gb", "utf")) else "<folder>\xff</folder>"
    path.write_bytes((head + path.read_text().replace("<annotation>", "<annotation>" + folder)).encode(encoding))
    if message is None:
        assert len(catalog.load(spec)[0]["annotations"]) == 1
    else:
        with pytest.raises(DatasetError, match=message):
            catalog.load(spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf0\n1\n", None),
        ("0\n1\n".encode("utf-16"), None),
        (b"0.png\r\n1.jpg\r\n", None),
        (b"# a comment\n0 # one\n\n1", None),
        (b"0\n1\n0\n", "image listed more than once: 0"),
        (b"0\n0.jpg\n", "image listed more than once: 0"),
        (b"\xff0\n", "not in UTF-8"),
        (b"0 1\n1 -1\n", "line 1: '0 1' holds 2 words"),
        (b"JPEGImages/0.png\n", "is a path"),
    ],
)
def test_lists_of_images(content: bytes, message: str | None, images: Path, tmp_path: Path) -> None:
    spec = voc_spec(tmp_path, images, [[voc_object("bar", (1, 1, 5, 5))]] * 2)
    (tmp_path / "ImageSets" / "Main" / "s.txt").write_bytes(content)
    if message is None:
        assert [record["image_id"] for record in catalog.load(spec)] == ["0", "1"]
    else:
        with pytest.raises(DatasetError, match=message):
            catalog.load(spec)


@pytest.mark.parametrize("name", ["a.webp", "a.tif", "a.TIFF", "a.BMP", "a.Jpg", "photo 1.png", "a#b.png", "a.b.jpeg"])
def test_names_of_images(name: str, tmp_path: Path) -> None:
    stem = name.rpartition(".")[0]
    (tmp_path / "JPEGImages").mkdir()
    Image.new("RGB", (W, H)).save(tmp_path / "JPEGImages" / name)
    (tmp_path / "Annotations").mkdir()
    text = f"<annotation><size><width>{W}</width><height>{H}</height></size></annotation>"
    (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
    voc_split(tmp_path, "s", stem)
    spec = DatasetSpec("odd_s", "voc", tmp_path, "s", CLASSES, 2007)
    [record] = catalog.load(spec)
    assert record["image_id"] == stem and record["file_name"].endswith(name) and doctor.check(spec).ok
