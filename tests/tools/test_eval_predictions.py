"""Saved detections give a run's numbers again, from json and from VOC text; mistakes end in one line."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest

from pretrain.runtime.commands import status
from tests.tools.test_errors import tool
from transfer.data import catalog
from transfer.evaluation.predictions import ImageDetections, save_coco_json
from transfer.tasks.instances import INSTANCES


def moved(spec: catalog.DatasetSpec, masks: bool) -> list[ImageDetections]:
    """The truth, a little moved, with few different scores."""
    rng = np.random.default_rng(0)
    detections = []
    for record in catalog.load(spec):
        objects = record["annotations"]
        boxes = np.array([a["bbox"] for a in objects], np.float32).reshape(-1, 4) + rng.normal(0, 2, (len(objects), 4))
        scores = np.round(rng.random(len(objects)), 1).astype(np.float32)
        classes = np.array([a["category_id"] for a in objects], int)
        size = (record["height"], record["width"])
        rles = [mask_util.merge(mask_util.frPyObjects(a["segmentation"], *size)) for a in objects] if masks else None
        detections.append(ImageDetections(record["image_id"], boxes.astype(np.float32), scores, classes, rles))
    return detections


@pytest.mark.parametrize(
    ("layout", "name", "saved"),
    [
        ("voc", "generated_test", "predictions_generated_test.json"),
        ("voc", "generated_test", "predictions_generated_test"),
        ("coco", "generated_coco_val", "predictions_generated_coco_val.json"),
    ],
)
def test_the_runs_numbers_again(layout, name, saved, generated, tmp_path, capsys):
    spec_file = generated / f"{layout}.yaml"
    (spec,) = catalog.resolve([name], [spec_file])
    dataset = catalog.open_dataset(spec)
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset, masks=layout == "coco")
    evaluator.merge([moved(spec, layout == "coco")])
    evaluator.save(tmp_path)
    scores = evaluator.scores()
    metrics, details = scores.metrics, scores.details()
    words = [str(tmp_path / saved), "--dataset", name, "--spec", str(spec_file), "--json", str(tmp_path / "again.json")]
    assert tool("eval_predictions").main(words) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    # the devkit's text keeps a tenth of a pixel, which is what VOC AP is made from anyway
    kept = [key for key in metrics if "unrounded" not in key or saved.endswith(".json")]
    assert {key: math.nan if (v := again["metrics"][key]) is None else v for key in kept} == pytest.approx(
        {key: metrics[key] for key in kept}, nan_ok=True
    )
    assert again["per_class"].keys() == details["per_class"].keys() and 5 < metrics["bbox/AP"] < 95
    assert ("segm/AP" in again["metrics"]) == (layout == "coco")
    assert "bbox/AP50" in capsys.readouterr().out


def test_keypoints_are_scored_where_the_file_has_them(generated, tmp_path, capsys):
    spec_file = generated / "keypoints.yaml"
    (spec,) = catalog.resolve(["generated_keypoints_val"], [spec_file])
    found = []
    for record, d in zip(catalog.load(spec), moved(spec, False), strict=True):
        points = np.array([a["keypoints"] for a in record["annotations"]], np.float32).reshape(len(d.scores), 5, 3)
        found.append(dataclasses.replace(d, keypoints=points + np.float32(0.7)))
    save_coco_json(tmp_path / "found.json", found, catalog.category_ids(spec))
    words = [str(tmp_path / "found.json"), "--dataset", spec.name, "--spec", str(spec_file)]
    assert status(tool("eval_predictions").main, words) == 2
    assert "OKS_SIGMAS is empty, which stands for COCO's 17, but there are 5 keypoints" in capsys.readouterr().err
    out = tmp_path / "again.json"
    assert tool("eval_predictions").main([*words, "--json", str(out), "--oks-sigmas", *["0.1"] * 5]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["keypoints/AP"] > 50 and metrics["bbox/AP"] > 5 and "segm/AP" not in metrics
    with pytest.raises(SystemExit):
        tool("eval_predictions").main([*words, "--oks-sigmas", "0"])


def test_mistakes(generated, tmp_path, capsys):
    coco = ["--dataset", "generated_coco_val", "--spec", str(generated / "coco.yaml")]
    for words, message in (
        ([str(tmp_path / "absent.json"), *coco], "do not exist"),
        ([str(tmp_path), *coco], "is a folder; 'generated_coco_val' is scored by COCO AP and takes a json"),
        (
            [str(tmp_path), "--dataset", "generated_coco_vall", "--spec", str(generated / "coco.yaml")],
            "generated_coco_va",
        ),
    ):
        assert status(tool("eval_predictions").main, words) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_masks_that_cover_nothing(generated, tmp_path, capsys):
    """No prediction can find them: said before anything is scored."""
    data = json.loads((generated / "coco" / "instances_val.json").read_text())
    data["annotations"][0]["segmentation"] = [[5.0, 5.0, 5.1, 5.0, 5.1, 5.1]]
    (tmp_path / "val.json").write_text(json.dumps(data))
    spec = (generated / "coco.yaml").read_text().replace("root: .", f"root: {generated}")
    spec = spec.replace("coco/instances_val.json", str(tmp_path / "val.json"))
    (tmp_path / "coco.yaml").write_text(spec)
    dataset = catalog.open_dataset(catalog.read_spec_file(tmp_path / "coco.yaml")[1])
    (tmp_path / "run").mkdir()
    evaluator = INSTANCES.protocol(dataset).evaluator(dataset, masks=True)
    for d in moved(dataset.spec, masks=True):
        evaluator.add(d)
    evaluator.save(tmp_path / "run")
    words = [str(tmp_path / "run" / f"predictions_{dataset.name}.json"), "--dataset", dataset.name]
    assert status(tool("eval_predictions").main, [*words, "--spec", str(tmp_path / "coco.yaml")]) == 2
    assert "1 masks of test set 'generated_coco_val' cover no pixel" in capsys.readouterr().err
