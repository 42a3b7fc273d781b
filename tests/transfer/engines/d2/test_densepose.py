"""DensePose on Detectron2: trained, evaluated and scored by its own evaluator, on a made-up set and surface."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.runtime.errors import ExpectedError
from tests.conftest import ROOT
from tests.transfer.data.densepose_sets import contents, write
from tests.transfer.data.densepose_surface import distances, vertices, write_mats
from transfer.config.defaults import get_cfg
from transfer.config.load import digest, load_config
from transfer.data import catalog, densepose_files
from transfer.engines.select import select
from transfer.tasks.densepose import DENSEPOSE

pytestmark = pytest.mark.d2

CONFIG = ROOT / "configs" / "transfer" / "densepose" / "densepose_rcnn_R_50_FPN_s1x_moco.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32",
    "MODEL.ROI_DENSEPOSE_HEAD.CONV_HEAD_DIM", "32", "MODEL.ROI_DENSEPOSE_HEAD.NUM_STACKED_CONVS", "2",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RPN.POST_NMS_TOPK_TEST", "20", "TEST.DETECTIONS_PER_IMAGE", "30",
    "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0",
    "SOLVER.BASE_LR", "0.001", "TEST.PRECISE_BN.ENABLED", "False", "SEED", "1",
]  # fmt: skip


def opts(spec: Path, out: Path) -> list[str]:
    sets = ["DATASETS.SPECS", f"('{spec}',)", "DATASETS.TRAIN", "('people_val',)", "DATASETS.TEST", "('people_val',)"]
    return [*SMALL, *sets, "OUTPUT_DIR", str(out)]


def config(spec: Path, out: Path, *more: str) -> Any:
    return load_config(CONFIG, [*opts(spec, out), *more], select("detectron2").defaults())


@pytest.fixture
def project() -> None:
    pytest.importorskip("densepose", reason="DensePose is not installed (make densepose)")


@pytest.fixture
def surface(project: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files but the distances, which are there without being on the disk."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    write_mats(tmp_path / "datasets" / "densepose")
    (tmp_path / "datasets" / "densepose" / densepose_files.DISTANCES).touch()
    monkeypatch.setattr(densepose_files, "_read_distances", lambda path: distances())


def test_without_the_project_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transfer.engines.d2.adapters import densepose as adapter

    monkeypatch.setattr(adapter, "densepose_problem", lambda: "Detectron2's DensePose project, which is not installed")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    refused(tmp_path, "missing: Detectron2's DensePose project, which is not installed .install it with `make densep")


def test_without_its_files_it_is_one_sentence_before_training(project: None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    refused(tmp_path, "missing: DensePose's files UV_symmetry_transforms.mat, .*wget -P .*Pdist_matrix.pkl")
    write_mats(tmp_path / "densepose")
    refused(tmp_path, "missing: DensePose's file Pdist_matrix.pkl in '.*wget")
    (tmp_path / "densepose" / densepose_files.DISTANCES).write_bytes(b"no pickle")
    refused(tmp_path, "Pdist_matrix.pkl' holds no pickle of arrays")


def refused(root: Path, message: str) -> None:
    """By training and evaluation, before anything is written."""
    engine, cfg = select("detectron2"), config(write(root / "people"), root / "run")
    for job in (engine.train, engine.evaluate):
        with pytest.raises(ExpectedError, match=message) as raised:
            job(cfg)
        assert "\n" not in str(raised.value)
    assert not (root / "run").exists()


def test_the_projects_keys_are_of_its_runs_alone(project: None) -> None:
    """Whatever was imported: configs of other runs, and their digests, know nothing of it."""
    from densepose import add_densepose_config
    from detectron2.config import get_cfg as stock

    from transfer.engines.d2.densepose import completed
    from transfer.engines.d2.register import add

    cfg = load_config(CONFIG, defaults=select("detectron2").defaults())
    assert digest(cfg) == digest(load_config(CONFIG)) and "HRNET" not in cfg.MODEL
    whole = completed(cfg)
    assert whole.is_frozen() and "HRNET" not in cfg.MODEL and "HRNET" in whole.MODEL
    assert whole.MODEL.ROI_DENSEPOSE_HEAD.LOSS_NAME == "DensePoseChartWithConfidenceLoss"
    for key, value in cfg.MODEL.ROI_DENSEPOSE_HEAD.items():
        assert whole.MODEL.ROI_DENSEPOSE_HEAD[key] == value, key

    theirs = stock()
    add_densepose_config(theirs)
    for key, value in get_cfg().MODEL.ROI_DENSEPOSE_HEAD.items():
        assert theirs.MODEL.ROI_DENSEPOSE_HEAD[key] == value, key
    add(theirs)  # keeps all of the project's
    theirs.merge_from_file(str(CONFIG))
    assert completed(theirs).MODEL.ROI_DENSEPOSE_HEAD == whole.MODEL.ROI_DENSEPOSE_HEAD


def test_one_step_has_finite_losses_and_gradients(surface: None, tmp_path: Path) -> None:
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from transfer.engines import resolve
    from transfer.engines.d2 import register
    from transfer.engines.d2.adapters import adapter_of

    data = contents()
    for annotation in data["annotations"][-4:]:  # one image without points, which is left out
        for key in [key for key in annotation if key.startswith("dp_")]:
            del annotation[key]
    cfg, adapter = config(write(tmp_path / "people", data), tmp_path / "run"), adapter_of("densepose")
    dataset = catalog.open_dataset(catalog.resolve(["people_val"], cfg.DATASETS.SPECS)[0])
    register.register_datasets([dataset], adapter)
    cfg = resolve.norms(adapter.prepare(cfg), 1, resolve.RunNotes())
    records, mapper = adapter.training_records(cfg), adapter.mapper(cfg, is_train=True)
    assert [record["image_id"] for record in records] == [40, 41, 42]
    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage():
        losses = model([mapper(record) for record in records])
    parts = {f"loss_densepose_{part}" for part in "UVIS"}
    assert parts <= set(losses) and all(torch.isfinite(loss) for loss in losses.values())
    assert all(losses[part] > 0 for part in parts)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert any(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "densepose_predictor" in n)


def test_trained_and_evaluated(surface: None, tmp_path: Path) -> None:
    engine, out = select("detectron2"), tmp_path / "run"
    result = engine.train(config(write(tmp_path / "people"), out))
    details = result.extra["people_val"]
    assert result.iterations == 2 and details["protocol"] == "densepose"
    names = ("AP", "AP50", "AP75", "APm", "APl")
    assert {*(f"densepose/{name}" for name in names), "bbox/AP"} <= set(result.metrics)
    assert all(math.isfinite(value) or key in details["undefined"] for key, value in result.metrics.items())
    assert math.isfinite(result.metrics["densepose/AP"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("loss_densepose_U", 0) > 0 for line in lines)
    assert json.loads((out / "predictions_people_val.json").read_text())
    assert "HRNET" not in (out / "config.yaml").read_text()  # either engine's tree reads it
    again = engine.evaluate(
        config(tmp_path / "people" / "spec.yaml", tmp_path / "evaluated", "MODEL.WEIGHTS", str(out / "model_final.pth"))
    )
    assert again.metrics == pytest.approx(result.metrics, nan_ok=True)
    (shown, *_) = engine.training_inputs(config(tmp_path / "people" / "spec.yaml", out), 2)
    assert len(shown.boxes) == 3  # without the crowd


def perfect(dataset: Any) -> list[Any]:
    """Detections that say at every point what is annotated there."""
    from densepose.structures.chart_result import DensePoseChartResultQuantized

    from transfer.engines.d2.densepose import DensePoseDetections

    found = []
    for record in dataset.records:
        objects = [a for a in record["annotations"] if "dp_x" in a]
        surfaces = {}
        for i, a in enumerate(objects):
            x0, y0, x1, y1 = a["bbox"]
            w, h = int(x1 - x0), int(y1 - y0)
            pixels = torch.zeros((3, h, w), dtype=torch.uint8)
            for x, y, part, u, v in zip(a["dp_x"], a["dp_y"], a["dp_I"], a["dp_U"], a["dp_V"], strict=True):
                at = slice(None), int(y * (y1 - y0) / 255), int(x * (x1 - x0) / 255)
                pixels[at] = torch.tensor([int(part), round(u * 255), round(v * 255)], dtype=torch.uint8)
            surfaces[i] = DensePoseChartResultQuantized(labels_uv_uint8=pixels)
        boxes, scores = np.array([a["bbox"] for a in objects]), np.full(len(objects), 0.9)
        classes = np.zeros(len(objects), int)
        found.append(DensePoseDetections(record["image_id"], boxes, scores, classes, surfaces=surfaces))
    return found


def exact_set(root: Path) -> Any:
    """Every point on a vertex, and well within its box."""
    data, (u, v, _) = contents(), vertices()
    for annotation in data["annotations"]:
        if "dp_x" in annotation:
            annotation["dp_x"] = (np.arange(12) * 20 + 10.0).tolist()
            annotation["dp_y"] = (np.arange(12) * 20 + 10.0).tolist()
            annotation["dp_U"], annotation["dp_V"] = u[:12].tolist(), v[:12].tolist()
    return catalog.open_dataset(catalog.read_spec_file(write(root, data))[0])


def test_scores_of_perfect_and_of_misplaced_points(surface: None, tmp_path: Path) -> None:
    """GPS is 1 at the right vertices, and at most exp(-0.5^2 / (2 * 0.351^2)) = 0.36 half a metre off."""
    dataset = exact_set(tmp_path)
    evaluator = DENSEPOSE.evaluator(get_cfg(), dataset)
    evaluator.merge([perfect(dataset)])
    scores = evaluator.scores()
    assert scores.protocol == "densepose" and scores.metrics["densepose/AP"] == pytest.approx(100)
    assert scores.metrics["densepose/APm"] == pytest.approx(100) and math.isnan(scores.metrics["densepose/APl"])
    assert "no object with points is large" in scores.undefined["densepose/APl"]

    misplaced = perfect(dataset)
    for found in misplaced:
        for surface_of in found.surfaces.values():
            pixels = surface_of.labels_uv_uint8
            pixels[1:][:, pixels[0] > 0] = pixels[1:][:, pixels[0] > 0].roll(1, dims=1)  # the vertex of another point
    evaluator.merge([misplaced])
    assert evaluator.scores().metrics["densepose/AP50"] == 0

    evaluator.merge([[]])
    assert math.isnan((nothing := evaluator.scores()).metrics["densepose/AP"])
    assert "no detection has a score" in nothing.undefined["densepose/AP"]


def test_the_surface_is_read_as_densepose_reads_it(surface: None, tmp_path: Path, monkeypatch: Any) -> None:
    """Its evaluator with its own reading of the same files has the same tables, and so the same AP."""
    from densepose.evaluation import densepose_coco_evaluation as theirs

    from transfer.engines.d2 import densepose as ours

    folder = tmp_path / "datasets" / "densepose"
    local = lambda address, **_: str(folder / address.rpartition("/")[2])  # noqa: E731
    monkeypatch.setattr(theirs.PathManager, "get_local_path", local)
    monkeypatch.setattr(theirs.pickle, "load", lambda file, encoding: {"Pdist_matrix": distances()})
    reference, mine = theirs.DensePoseCocoEval(), object.__new__(ours._Evaluation)
    mine._surface = densepose_files.read_surface()
    reference._loadGEval()
    mine._loadGEval()
    tables = set(vars(mine)) - {"_surface"}
    assert tables == {k for k in vars(reference) if k.startswith(("P", "C", "Mean"))}
    for key in tables - {"Pdist_matrix"}:
        for a, b in zip(getattr(mine, key), getattr(reference, key), strict=True):
            assert np.array_equal(a, b), key


def test_only_the_surest_twenty_are_kept_and_equal_densepose_own(surface: None) -> None:
    from densepose.evaluation.evaluator import prediction_to_dict
    from densepose.structures import DensePoseChartPredictorOutput
    from detectron2.structures import Boxes, Instances

    from transfer.engines.d2.adapters import adapter_of

    n, generator = 23, torch.Generator().manual_seed(0)
    instances = Instances((90, 120))
    corners = torch.rand((n, 2), generator=generator) * 40
    instances.pred_boxes = Boxes(torch.cat([corners, corners + 20 + torch.rand((n, 2), generator=generator) * 20], 1))
    instances.scores = torch.rand(n, generator=generator)
    instances.pred_classes = torch.zeros(n, dtype=torch.long)
    coarse, fine, u, v = (torch.rand((n, c, 56, 56), generator=generator) for c in (15, 25, 25, 25))
    instances.pred_densepose = DensePoseChartPredictorOutput(coarse, fine, u, v)
    found = adapter_of("densepose").prediction({"image_id": 40}, {"instances": instances})
    surest = instances.scores.argsort(descending=True)[:20].tolist()
    assert list(found.surfaces) == surest and len(found.scores) == n
    theirs = prediction_to_dict(instances, 40, None, None, False)
    for i, own in found.surfaces.items():
        assert torch.equal(own.labels_uv_uint8, theirs[i]["densepose"].labels_uv_uint8)


def test_boxes_alone_are_no_densepose(surface: None, tmp_path: Path) -> None:
    from transfer.evaluation.predictions import ImageDetections

    evaluator = DENSEPOSE.evaluator(get_cfg(), exact_set(tmp_path))
    with pytest.raises(ExpectedError, match="detections without points on the surface"):
        evaluator.add(ImageDetections(40, np.ones((1, 4)), np.ones(1), np.zeros(1, int)))
