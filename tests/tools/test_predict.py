"""A trained network on anybody's images: what the evaluation found is what is written, and nothing ends it half-way."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.runtime.commands import INTERRUPTED, TERMINATED, run, status
from pretrain.runtime.result import RunResult
from tests import architectures, segmentors
from tests.tools.test_errors import tool
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.select import select
from transfer.evaluation.predictions import ImageDetections, load_coco_json, predictions_file
from transfer.report.predict import Output

NAMES = ["R18-C4", "R18-FPN-mask", "R18-FPN-keypoint", "semantic"]


@pytest.fixture(scope="module")
def runs() -> dict[str, Path]:
    """Runs of one iteration that an earlier test has made."""
    return {}


@pytest.fixture
def trained(request, runs: dict[str, Path], generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, of the architecture that the test is about."""
    name = request.getfixturevalue("name")
    if name not in runs:
        folder = tmp_path_factory.mktemp(name)
        short = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1", "OUTPUT_DIR", str(folder)]
        config, opts = segmentors.DEMO, segmentors.options
        if name != "semantic":
            config, opts = architectures.ARCHITECTURES[name][0], lambda *a: architectures.options(name, *a)
        engine = select("torchvision")
        engine.train(load_config(config, [*opts(generated, folder), *short], engine.defaults()))
        runs[name] = folder
    return runs[name]


def predict(run: Path, output: Path, *words: object) -> int:
    given = ["--weights", run / "model_final.pth", "--output-dir", output, "--engine", "torchvision", *words]
    return status(tool("predict").main, [str(word) for word in given])


@pytest.mark.parametrize("name", NAMES[:3])
def test_writes_what_the_evaluation_found(name: str, trained: Path, tmp_path: Path) -> None:
    cfg = load_config(trained / "config.yaml")
    (spec,) = catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)
    records = catalog.load(spec)
    assert predict(trained, tmp_path, *[r["file_name"] for r in records], "--threshold", 0.01) == 0
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert [c["name"] for c in found["categories"]] == list(catalog.class_names(spec))
    evaluated = {
        d.image_id: d for d in load_coco_json(trained / predictions_file(spec.name), catalog.category_ids(spec))
    }
    total = 0
    for image, record in zip(found["images"], records, strict=True):
        here = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        there = evaluated.get(record["image_id"])
        kept = [] if there is None else [i for i in np.argsort(-there.scores, kind="stable") if there.scores[i] >= 0.01]
        assert image["file_name"] == record["file_name"] and len(here) == len(kept)
        total += len(kept)
        for a, i in zip(here, kept, strict=True):
            x, y, w, h = a["bbox"]
            assert [x, y, x + w, y + h] == pytest.approx(there.boxes[i].tolist(), abs=1e-3)
            assert (a["score"], a["category_id"] - 1) == (pytest.approx(float(there.scores[i])), there.classes[i])
            assert ("segmentation" in a, "keypoints" in a) == ("mask" in name, "keypoint" in name)
    lines = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(lines) == len(found["annotations"]) == total > 0
    assert len(list((tmp_path / "pictures").iterdir())) == len(records)


@pytest.mark.parametrize("name", ["semantic"])
def test_maps(name: str, trained: Path, generated: Path, tmp_path: Path) -> None:
    image = next((generated / "scenes" / "JPEGImages").iterdir())
    assert predict(trained, tmp_path, image) == 0
    (file,) = (tmp_path / "maps").iterdir()
    with Image.open(file) as found, Image.open(image) as original:
        assert found.size == original.size and found.mode == "L"
    assert not (tmp_path / "predictions.json").exists() and len(list((tmp_path / "pictures").iterdir())) == 1


@pytest.mark.parametrize("name", ["R18-C4"])
def test_images_that_cannot_be_read_are_skipped_and_listed(name: str, trained: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "images" / "below"
    folder.mkdir(parents=True)
    Image.new("RGB", (80, 60), "red").save(folder / "good.jpg")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:400])
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("not looked at in a folder")
    Image.new("RGB", (3000, 1), "red").save(folder / "thin\n\x1b[2J.png")
    assert predict(trained, tmp_path / "out", tmp_path / "images", "--no-pictures") == 0
    assert "cut.jpg" in (said := capsys.readouterr().out) and "text.png" in said and "notes" not in said
    assert "3000x1" in said and "\x1b" not in said
    skipped = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 3 and not (tmp_path / "out" / "pictures").exists()
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 1
    assert predict(trained, tmp_path / "out", folder / "good.jpg") == 0
    assert not (tmp_path / "out" / "skipped.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/*.jpg"], "'nowhere/*.jpg' leads to no image"),
        (["{here}"], "leads to no image"),
        (["{here}/broken.jpg"], "none of the 1 files is an image"),
        (["{here}/broken.jpg", "--threshold", "2"], "--threshold"),
    ],
)
@pytest.mark.parametrize("name", ["R18-C4"])
def test_mistakes_end_in_one_line(name: str, words, message: str, trained: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    here = tmp_path / "empty"
    if "broken" in words[0]:
        (here / "broken.jpg").write_bytes(b"\xff\xd8")
    try:
        code = predict(trained, tmp_path / "out", *[word.format(here=here) for word in words])
    except SystemExit as end:  # argparse
        code = end.code
    assert code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["R18-C4"])
def test_what_was_found_until_it_was_stopped_is_written(
    name: str,
    trained: Path,
    generated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """And an earlier prediction's files go only when there is something in their place."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    images = sorted((generated / "scenes" / "JPEGImages").iterdir())[:4]
    assert predict(trained, tmp_path, *images) == 0
    before = sorted(tmp_path.rglob("*.*"))
    wrong = trained.parent / "trunk"
    wrong.mkdir(exist_ok=True)
    torch.save({"model": {"stem.conv1.weight": torch.zeros(1)}}, wrong / "model_final.pth")
    assert predict(wrong, tmp_path, *images, "--config-file", trained / "config.yaml") == 2
    assert sorted(tmp_path.rglob("*.*")) == before and len(before) == 6
    add = Output.add
    for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):

        def stopped(self: Output, record: dict, found: ImageDetections, number: int = number) -> None:
            if record["image_id"] == 3:
                os.kill(os.getpid(), number)
            add(self, record, found)

        assert predict(trained, tmp_path, *images) == 0
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(Output, "add", stopped)
            run(lambda: predict(trained, tmp_path, *images, "--opts", "DATALOADER.NUM_WORKERS", 2))
        assert end.value.code == code
        found = json.loads((tmp_path / "predictions.json").read_text())
        assert [image["id"] for image in found["images"]] == [1, 2]
        assert len(list((tmp_path / "pictures").iterdir())) == 2 and not multiprocessing.active_children()


@pytest.mark.parametrize("name", ["R18-C4"])
def test_pictures_that_would_be_removed_are_no_input(
    name: str, trained: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = min((generated / "scenes" / "JPEGImages").iterdir())
    (tmp_path / image.name).write_bytes(image.read_bytes())
    output = tmp_path / "predictions"
    assert predict(trained, output, tmp_path) == 0
    before = sorted(output.rglob("*"))
    assert predict(trained, output, tmp_path) == 2
    assert f"lies where --output-dir '{output}' has its pictures" in capsys.readouterr().err
    assert sorted(output.rglob("*")) == before and len(list((output / "pictures").iterdir())) == 1
    assert predict(trained, tmp_path / "other", tmp_path) == 0


@pytest.mark.parametrize("name", ["R18-C4"])
def test_weights_that_are_missing_or_in_no_runs_folder(name: str, trained: Path, tmp_path: Path, capsys) -> None:
    """Said before an image is decoded, which takes minutes for a large folder."""
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(trained / "model_final.pth", alone)
    for folder, words, message in (
        (tmp_path, [], "model_final.pth' are no file; give the model_final.pth of a run"),
        (tmp_path, ["--config-file", trained / "config.yaml"], "are no file"),
        (alone, [], "config.yaml' does not exist"),
    ):
        assert predict(folder, tmp_path / "out", "no image", *words) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.d2
@pytest.mark.parametrize("name", NAMES)
def test_both_engines_write_the_same(name: str, trained: Path, generated: Path, tmp_path: Path) -> None:
    images = sorted((generated / "scenes" / "JPEGImages").iterdir())[:4]
    for engine in ("torchvision", "detectron2"):
        how = ["--engine", engine, "--threshold", 0.05, "--no-pictures"]
        assert predict(trained, tmp_path / engine, *images, *how) == 0
    if name == "semantic":
        for file in (tmp_path / "torchvision" / "maps").iterdir():
            assert file.read_bytes() == (tmp_path / "detectron2" / "maps" / file.name).read_bytes()
        return
    ours, theirs = (
        json.loads((tmp_path / engine / "predictions.json").read_text())["annotations"]
        for engine in ("torchvision", "detectron2")
    )
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a["category_id"] == b["category_id"] and a["score"] == pytest.approx(b["score"], abs=1e-4)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)


@pytest.mark.parametrize("name", ["R18-C4"])
def test_a_result_knows_its_classes(name: str, trained: Path) -> None:
    cfg = load_config(trained / "config.yaml")
    (spec,) = catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)
    assert RunResult.load(trained).extra["classes"] == list(catalog.class_names(spec))
