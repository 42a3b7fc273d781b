"""The YAMLs of configs/transfer: short, in pairs that differ in the input alone, and every one builds its detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.runtime.config import ConfigError, dotted_keys, load_yaml, to_dict, value_at
from tests.conftest import ROOT
from transfer.config.defaults import get_cfg
from transfer.config.load import load_config
from transfer.engines import resolve
from transfer.engines.tv.adapters import adapter_of, check_support
from transfer.tasks import task_of

FOLDER = ROOT / "configs" / "transfer"
FILES = sorted(FOLDER.glob("*/*.yaml"))
PAIRS = [
    (path.with_name(path.name.replace("_moco", "")), path)
    for path in FILES
    if "R_50" in path.name and path.stem.endswith("_moco")
]
DETECTORS = [path for path in FILES if "rcnn" in path.stem]
SEGMENTORS = [path for path in FILES if path.stem.startswith("fcn")]
DENSEPOSE = [path for path in FILES if path.parent.name == "densepose"]
BOTH_ENGINES = [path for path in FILES if path not in DENSEPOSE]
INPUT = {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1", "INPUT.FORMAT"}


def name(path: Path) -> str:
    return path.stem


def test_the_papers_detectors_are_all_there():
    stems = {path.stem for path in FILES}
    voc = {f"faster_rcnn_R_50_{detector}" for detector in ("C4_24k", "C4_9k", "DC5_24k", "FPN_24k")}
    coco = {f"mask_rcnn_R_50_{detector}" for detector in ("C4_1x", "C4_2x", "FPN_1x", "FPN_2x", "FPN_6x")}
    coco |= {"keypoint_rcnn_R_50_FPN_2x", "densepose_rcnn_R_50_FPN_s1x"}
    maps = {"fcn_R_50_30k", "fcn_R_50_90k"}
    assert {f"{stem}{weights}" for stem in voc | coco | maps for weights in ("", "_moco")} <= stems
    for folder, stem in (("lvis", "mask_rcnn_R_50_FPN_1x"), ("lvis", "mask_rcnn_R_50_FPN_2x"),
                         ("cityscapes", "mask_rcnn_R_50_FPN")):  # fmt: skip
        assert {f"{stem}{weights}.yaml" for weights in ("", "_moco")} <= {p.name for p in (FOLDER / folder).iterdir()}


@pytest.mark.parametrize(("msra", "moco"), PAIRS, ids=lambda p: p.stem)
def test_the_two_files_of_a_detector_differ_in_the_input_alone(msra: Path, moco: Path):
    a, b = load_config(msra), load_config(moco)
    assert {key for key in dotted_keys(a) if value_at(a, key) != value_at(b, key)} == INPUT
    assert (a.INPUT.FORMAT, a.MODEL.PIXEL_STD, a.MODEL.RESNETS.STRIDE_IN_1X1) == ("BGR", [1.0, 1.0, 1.0], True)
    assert b.INPUT.FORMAT == "RGB" and b.MODEL.PIXEL_MEAN == a.MODEL.PIXEL_MEAN[::-1]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_no_longer_than_its_difference(path: Path):
    own = load_yaml(path)
    under = load_config(path.parent / own.pop("_BASE_"))
    same = [key for key in dotted_keys(own) if to_dict(value_at(under, key)) == value_at(own, key)]
    assert not same, f"{same} say what the base says"


@pytest.mark.parametrize("path", [p for p in DETECTORS if p.parent.name in ("voc", "coco")], ids=name)
def test_the_papers_rules_hold(path: Path):
    """All layers tuned, BN trained everywhere it is, precise BN, the linear rule of batch and rate."""
    cfg = load_config(path)
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.MODEL.RESNETS.NORM == "naiveSyncBN"
    assert cfg.MODEL.FPN.NORM == ("naiveSyncBN" if "FPN" in path.stem else "")
    assert cfg.TEST.PRECISE_BN.ENABLED and not cfg.MODEL.ROI_BOX_HEAD.NORM and not cfg.MODEL.ROI_MASK_HEAD.NORM
    if "R_50" in path.stem:
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.TEST.PRECISE_BN.NUM_ITER) == (16, 0.02, 200)
        sizes = range(480 if path.parent.name == "voc" else 640, 801, 32)
        assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(sizes) and cfg.INPUT.MIN_SIZE_TEST == 800
        schedule = (cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS)
        assert schedule == {
            "24k": ((18000, 22000), 24000, 100), "9k": ((6750, 8250), 9000, 100), "1x": ((60000, 80000), 90000, 1000),
            "2x": ((120000, 160000), 180000, 1000), "6x": ((480000, 520000), 540000, 1000),
        }[path.stem.removesuffix("_moco").split("_")[-1]]  # fmt: skip


@pytest.mark.parametrize("path", SEGMENTORS, ids=name)
def test_the_papers_rules_of_semantic_segmentation_hold(path: Path):
    """MoCo's appendix: all layers and norms tuned, dilated conv5, scale, crop, no resizing in tests, steps."""
    cfg = load_config(path)
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.SEM_SEG_HEAD.NORM == "naiveSyncBN"
    assert cfg.INPUT.RANDOM_SCALE == (0.5, 2.0) and cfg.INPUT.CROP.ENABLED and cfg.INPUT.MIN_SIZE_TEST == 0
    assert (0.7 * cfg.SOLVER.MAX_ITER, 0.9 * cfg.SOLVER.MAX_ITER) == pytest.approx(cfg.SOLVER.STEPS)
    if "R_50" in path.stem:
        assert (cfg.MODEL.RESNETS.RES5_DILATION, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM) == (2, 256)
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WEIGHT_DECAY) == (16, 1e-4)
        size, rate, end = (513, 0.003, 30000) if path.parent.name == "voc" else (769, 0.01, 90000)
        assert (cfg.INPUT.CROP.SIZE, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == ([size, size], rate, end)


@pytest.mark.parametrize("path", sorted((FOLDER / "lvis").glob("*.yaml")), ids=name)
def test_lvis_differs_from_coco_in_the_data_alone(path: Path):
    """MoCo's LVIS: the schedules of COCO, rare images repeated, 300 detections; frozen norms in the baseline alone."""
    cfg = load_config(path)
    stem = path.stem.replace("_frozen", "")
    coco = load_config(FOLDER / "coco" / f"{stem}.yaml")
    frozen = {"MODEL.BACKBONE.FREEZE_AT", "MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "TEST.PRECISE_BN.ENABLED"}
    assert {key for key in dotted_keys(cfg) if value_at(cfg, key) != value_at(coco, key)} == {
        "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "DATASETS.TRAIN", "DATASETS.TEST",
        "DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD", "TEST.DETECTIONS_PER_IMAGE",
        *(frozen if "_frozen" in path.stem else ()),
    }  # fmt: skip
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.TEST.DETECTIONS_PER_IMAGE) == (1230, 300)


@pytest.mark.parametrize("path", sorted((FOLDER / "cityscapes").glob("mask*.yaml")), ids=name)
def test_cityscapes_is_detectron2s_recipe(path: Path):
    cfg = load_config(path)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == (
        8, 0.01, (18000,), 24000,
    )  # fmt: skip
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(range(800, 1025, 32)) and cfg.INPUT.MIN_SIZE_TEST == 1024
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 8 and cfg.INPUT.MASK_FORMAT == "bitmask"
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.FPN.NORM == "naiveSyncBN" and cfg.MODEL.BACKBONE.FREEZE_AT == 0


def resolved(path: Path):
    return resolve.norms(load_config(path), 1, resolve.RunNotes())


def built(cfg):
    return adapter_of(task_of(cfg).name).build(cfg, "cpu")


@pytest.mark.parametrize("path", DENSEPOSE, ids=name)
def test_densepose_is_the_legacy_s1x_with_bn_tuned(path: Path):
    """What DensePose's own legacy s1x says, and norms and stages tuned as in every detector of the papers."""
    cfg = load_config(path)
    solver, head, box = cfg.SOLVER, cfg.MODEL.ROI_DENSEPOSE_HEAD, cfg.MODEL.ROI_BOX_HEAD
    assert (solver.MAX_ITER, solver.STEPS, solver.BASE_LR) == (130000, (100000, 120000), 0.002)
    assert (solver.WARMUP_FACTOR, solver.WARMUP_ITERS, solver.IMS_PER_BATCH) == (0.1, 1000, 16)
    assert (head.NAME, head.NUM_COARSE_SEGM_CHANNELS, head.DECODER_ON) == ("DensePoseV1ConvXHead", 15, False)
    assert (head.POOLER_RESOLUTION, head.HEATMAP_SIZE, head.POOLER_SAMPLING_RATIO) == (14, 56, 2)
    assert (head.INDEX_WEIGHTS, head.PART_WEIGHTS, head.POINT_REGRESSION_WEIGHTS) == (2.0, 0.3, 0.1)
    assert head.POOLER_TYPE == box.POOLER_TYPE == "ROIAlign" and box.POOLER_SAMPLING_RATIO == 2
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.FPN.NORM == "naiveSyncBN" and cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1 and cfg.TEST.PRECISE_BN.ENABLED
    assert cfg.DATASETS.TRAIN == ("densepose_coco_2014_train", "densepose_coco_2014_valminusminival")
    assert cfg.DATASETS.TEST == ("densepose_coco_2014_minival",)


@pytest.mark.parametrize("path", DENSEPOSE, ids=name)
def test_the_torchvision_engine_refuses_densepose_in_a_sentence(path: Path):
    with pytest.raises(ConfigError, match="does not do the task 'densepose'; use --engine detectron2") as raised:
        check_support(load_config(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", BOTH_ENGINES, ids=name)
def test_the_torchvision_engine_builds_it(path: Path):
    assert check_support(load_config(path)) == []
    with torch.device("meta"):
        model = built(resolved(path))
    if path in SEGMENTORS:
        assert type(model).__name__ == "Segmentor"
        return
    kinds = {"DC5": "DilatedC5", "FPN": "Pyramid", "C4": "Stages"}
    assert type(model.backbone).__name__ == next(kind for part, kind in kinds.items() if part in path.stem)
    assert (model.roi_heads.mask_head is not None) == path.stem.startswith("mask")
    assert (model.roi_heads.keypoint_head is not None) == path.stem.startswith("keypoint")


@pytest.mark.d2
@pytest.mark.parametrize("path", BOTH_ENGINES, ids=name)
def test_both_engines_build_the_same_tensors(path: Path):
    from detectron2.modeling import build_model

    from transfer.convert.keymap import detector_to_detectron2
    from transfer.engines.d2.engine import Detectron2Engine

    cfg = resolved(path)
    theirs = load_config(path, ["MODEL.DEVICE", "meta"], Detectron2Engine().defaults())
    with torch.device("meta"):
        ours = {detector_to_detectron2(k) or k: v.shape for k, v in built(cfg).state_dict().items()}
    expected = {k: v.shape for k, v in build_model(resolve.norms(theirs, 1, resolve.RunNotes())).state_dict().items()}
    assert ours == expected and get_cfg().keys() == cfg.keys()
