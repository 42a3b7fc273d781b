"""Names: every tensor of every depth has exactly one counterpart, both ways."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet

from transfer.convert import keymap
from transfer.engines.tv.adapters.instances import build_detector


@pytest.mark.parametrize(("depth", "tensors"), [(18, 120), (34, 216), (50, 318), (101, 624), (152, 930)])
def test_trunk_names_round_trip(depth: int, tensors: int):
    with torch.device("meta"):
        keys = [k for k in getattr(resnet, f"resnet{depth}")().state_dict() if not k.startswith("fc.")]
    renamed = [keymap.trunk_to_detectron2(k) for k in keys]
    assert len(set(renamed)) == len(keys) == tensors and None not in renamed
    assert [keymap.trunk_to_torchvision(k) for k in renamed] == keys


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer4.2.bn3.weight", "res5.2.conv3.norm.weight"),
        ("layer1.0.downsample.0.weight", "res2.0.shortcut.weight"),
        ("layer1.0.downsample.1.num_batches_tracked", "res2.0.shortcut.norm.num_batches_tracked"),
        ("fc.weight", None),
        ("conv1.0.weight", None),
        ("layer5.0.conv1.weight", None),
        ("layer1.0.se.fc1.weight", None),
        ("bn.running_mean", None),
    ],
)
def test_trunk_names(key: str, name: str | None):
    assert keymap.trunk_to_detectron2(key) == name


def test_detector_names_round_trip(small_config):
    from transfer.config.load import load_config

    keys = list(build_detector(load_config(small_config)).state_dict())
    renamed = [keymap.detector_to_detectron2(k) for k in keys]
    assert None not in renamed and len(set(renamed)) == len(keys)
    assert [keymap.detector_to_torchvision(k) for k in renamed] == keys


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("conv1_w", "stem.conv1.weight"),
        ("res_conv1_bn_s", "stem.conv1.norm.weight"),
        ("res2_0_branch1_w", "res2.0.shortcut.weight"),
        ("res5_2_branch2c_bn_b", "res5.2.conv3.norm.bias"),
        ("fc1000_w", None),
        ("res2_0_branch2a_w_momentum", None),
    ],
)
def test_caffe2_names(key: str, name: str | None):
    assert keymap.caffe2_to_detectron2(key) == name


def test_two_keys_on_one_name_are_an_error():
    with pytest.raises(ValueError, match="both 'a' and 'b'"):
        keymap.rename(["a", "b"], lambda _: "same")


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("backbone.bottom_up.res2.0.conv1.weight", "res2.0.conv1.weight"),
        ("backbone.stem.conv1.norm.bias", "stem.conv1.norm.bias"),
        ("roi_heads.res5.1.conv2.weight", "res5.1.conv2.weight"),
        ("roi_heads.res5.norm.weight", None),
        ("backbone.fpn_lateral2.weight", None),
        ("backbone.reduce.norm.running_mean", None),
        ("proposal_generator.rpn_head.conv.weight", None),
        ("res2.0.conv1.weight", None),  # of a trunk, not of a detector
    ],
)
def test_the_trunk_within_a_detector(key: str, part: str | None):
    assert keymap.trunk_part(key) == part
