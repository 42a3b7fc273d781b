"""The YAMLs of configs/transfer: short, in pairs that differ in the input alone, and every one builds its detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.runtime.config import dotted_keys, load_yaml, to_dict, value_at
from tests.conftest import ROOT
from transfer.config import support
from transfer.config.defaults import get_cfg
from transfer.config.load import load_config
from transfer.engines import base

FOLDER = ROOT / "configs" / "transfer"
FILES = sorted(FOLDER.glob("*/*.yaml"))
PAIRS = [
    (path.with_name(path.name.replace("_moco", "")), path)
    for path in FILES
    if "R_50" in path.name and path.stem.endswith("_moco")
]
INPUT = {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1", "INPUT.FORMAT"}


def name(path: Path) -> str:
    return path.stem


def test_the_papers_detectors_are_all_there():
    stems = {path.stem for path in FILES}
    voc = {f"faster_rcnn_R_50_{detector}" for detector in ("C4_24k", "C4_9k", "DC5_24k", "FPN_24k")}
    coco = {f"mask_rcnn_R_50_{detector}" for detector in ("C4_1x", "C4_2x", "FPN_1x", "FPN_2x", "FPN_6x")}
    coco.add("keypoint_rcnn_R_50_FPN_2x")
    assert voc | coco | {f"{stem}_moco" for stem in voc | coco} == {stem for stem in stems if "R_50" in stem}


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


@pytest.mark.parametrize("path", FILES, ids=name)
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


def resolved(path: Path):
    return base.resolve_norms(load_config(path), 1, base.RunNotes())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_torchvision_engine_builds_it(path: Path):
    from transfer.engines.tv.adapters.instances import build_detector

    assert support.check(load_config(path)) == []
    with torch.device("meta"):
        model = build_detector(resolved(path))
    kinds = {"DC5": "DilatedC5", "FPN": "Pyramid", "C4": "Stages"}
    assert type(model.backbone).__name__ == next(kind for part, kind in kinds.items() if part in path.stem)
    assert (model.roi_heads.mask_head is not None) == path.stem.startswith("mask")
    assert (model.roi_heads.keypoint_head is not None) == path.stem.startswith("keypoint")


@pytest.mark.d2
@pytest.mark.parametrize("path", FILES, ids=name)
def test_both_engines_build_the_same_tensors(path: Path):
    from detectron2.modeling import build_model

    from transfer.convert.keymap import detector_to_detectron2
    from transfer.engines.d2.engine import Detectron2Engine
    from transfer.engines.tv.adapters.instances import build_detector

    cfg = resolved(path)
    theirs = load_config(path, ["MODEL.DEVICE", "meta"], Detectron2Engine().defaults())
    with torch.device("meta"):
        ours = {detector_to_detectron2(k): v.shape for k, v in build_detector(cfg).state_dict().items()}
    expected = {k: v.shape for k, v in build_model(base.resolve_norms(theirs, 1, base.RunNotes())).state_dict().items()}
    assert ours == expected and get_cfg().keys() == cfg.keys()
