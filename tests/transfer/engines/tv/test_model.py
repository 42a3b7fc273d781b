"""Parts of the detector against naive forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from pretrain.runtime.checkpoint import CheckpointError
from tests.transfer.convert.checkpoints import trunk
from transfer.config.load import load_config
from transfer.convert import keymap
from transfer.engines.tv.adapters.instances import build_detector
from transfer.engines.tv.detector import rescale
from transfer.engines.tv.rpn import Anchors, box_loss
from transfer.engines.tv.weights import detectron2_state, load_weights


@pytest.fixture
def cfg(small_config, small_opts):
    return load_config(small_config, small_opts)


def test_anchors_are_exact_and_on_a_fixed_stride():
    anchors = Anchors([[32, 64]], [[0.5, 1.0, 2.0]], [16], 0.0)
    images = type("Images", (), {"image_sizes": [(50, 40)], "tensors": torch.zeros(1, 3, 50, 40)})()
    (out,) = anchors(images, [torch.zeros(1, 8, 4, 3)])
    expected = []
    for y in range(4):
        for x in range(3):
            for size in (32, 64):
                for ratio in (0.5, 1.0, 2.0):
                    w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                    expected.append([16 * x - w / 2, 16 * y - h / 2, 16 * x + w / 2, 16 * y + h / 2])
    assert torch.allclose(out, torch.tensor(expected), atol=1e-4)


def test_box_loss():
    a, b = torch.tensor([[0.0, 0.5, 2.0, -3.0]]), torch.zeros(1, 4)
    assert float(box_loss(a, b, 0.0)) == 5.5
    assert float(box_loss(a, b, 1.0)) == pytest.approx(0.5 * 0.25 + 1.5 + 2.5)


def test_rescale_clips_and_drops_empty_boxes():
    found = {
        "boxes": torch.tensor([[0.0, 0.0, 10.0, 20.0], [90.0, 0.0, 120.0, 10.0], [100.0, 5.0, 130.0, 9.0]]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([0, 1, 2]),
    }
    out = rescale(found, (50, 100), (100, 50))
    assert out["boxes"].tolist() == [[0, 0, 5, 40], [45, 0, 50, 20]] and out["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_freezing(small_config, small_opts, freeze_at):
    cfg = load_config(small_config, [*small_opts, "MODEL.BACKBONE.FREEZE_AT", str(freeze_at)])
    model = build_detector(cfg)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    stages = {0: (), 1: ("conv1",), 3: ("conv1", "layer1", "layer2")}[freeze_at]
    assert bool(frozen) == bool(stages) and all(n.startswith(tuple(f"backbone.{s}" for s in stages)) for n in frozen)
    assert isinstance(model.backbone.bn1, FrozenBatchNorm2d) == (freeze_at > 0)
    assert isinstance(model.backbone.layer3[0].bn1, nn.BatchNorm2d)


def test_stride_rule(small_config, small_opts):
    deep = ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"]
    for rule in (True, False):
        cfg = load_config(small_config, [*small_opts, *deep, "MODEL.RESNETS.STRIDE_IN_1X1", str(rule)])
        block = build_detector(cfg).backbone.layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == (((2, 2), (1, 1)) if rule else ((1, 1), (2, 2)))


def test_the_extra_norm_is_there_only_where_it_is_asked_for(small_config, small_opts):
    with_norm = build_detector(load_config(small_config, small_opts))
    without = build_detector(load_config(small_config, [*small_opts, "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"]))
    assert isinstance(with_norm.roi_heads.box_head.norm, nn.BatchNorm2d)
    assert isinstance(without.roi_heads.box_head.norm, nn.Identity)


def test_an_image_without_objects_trains(cfg):
    model = build_detector(cfg).train()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    empty = {"image": image, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model([empty, empty])
    sum(losses.values()).backward()
    assert float(losses["loss_box_reg"]) == 0 and float(losses["loss_rpn_loc"]) == 0
    assert all(torch.isfinite(v) for v in losses.values()) and model.backbone.conv1.weight.grad.abs().sum() > 0


def test_detector_state_round_trip(cfg):
    torch.manual_seed(0)
    a, b = build_detector(cfg), build_detector(cfg)
    assert load_weights(b, detectron2_state(a), "a") == []
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_a_trunk_file_fills_backbone_and_res5_and_nothing_else(cfg):
    model = build_detector(cfg)
    state = trunk(18)
    file = {keymap.trunk_to_detectron2(k): v for k, v in state.items() if not k.startswith("fc.")}
    fresh = load_weights(model, file, "trunk")
    assert all(n.startswith(("rpn.", "roi_heads.box_predictor.", "roi_heads.box_head.norm.")) for n in fresh)
    assert torch.equal(model.backbone.layer2[1].conv1.weight, state["layer2.1.conv1.weight"])
    assert torch.equal(model.roi_heads.box_head.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])


@pytest.mark.parametrize("how", ["another depth", "a missing tensor", "nothing known"])
def test_weights_that_do_not_fit_are_refused(cfg, how):
    file = {keymap.trunk_to_detectron2(k): v for k, v in trunk(50 if how == "another depth" else 18).items()}
    file.pop(None)
    if how == "a missing tensor":
        del file["res4.0.conv1.weight"]
    if how == "nothing known":
        file = {"encoder.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="'x' does not fit this model; check MODEL.RESNETS.DEPTH"):
        load_weights(build_detector(cfg), file, "x")
