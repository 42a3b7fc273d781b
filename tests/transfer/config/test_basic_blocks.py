"""What ResNet-18 and 34 cannot be: the linter, the torchvision engine and Detectron2's say the same."""

from __future__ import annotations

import pytest

from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from transfer.config.basic_blocks import check_basic_blocks, misfit
from transfer.config.lint import lint
from transfer.config.load import load_config
from transfer.engines.tv.adapters import check_support

CONFIGS = ROOT / "configs" / "transfer"
C4 = CONFIGS / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
NARROW = CONFIGS / "voc" / "faster_rcnn_narrow_C4_demo_moco.yaml"
FPN = CONFIGS / "coco" / "mask_rcnn_R_18_FPN_small_moco.yaml"
DC5 = CONFIGS / "voc" / "faster_rcnn_R_50_DC5_24k_moco.yaml"
FCN = CONFIGS / "voc" / "fcn_R_18_demo_moco.yaml"
ANY_WIDTH = ["MODEL.BACKBONE.NAME", "build_any_width_resnet_backbone"]
HALF = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "32", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"]
DEFORMED = "[False, False, False, True]"


@pytest.mark.parametrize(
    ("path", "opts"),
    [
        (C4, []),
        (C4, ANY_WIDTH),  # 64 channels are a width too
        (C4, [*ANY_WIDTH, *HALF]),
        (C4, [*ANY_WIDTH, *HALF, "MODEL.RESNETS.DEPTH", "34"]),
        (FCN, [*ANY_WIDTH, *HALF]),
        (NARROW, []),
        (FPN, []),
        (DC5, []),
    ],
)
def test_what_fits_is_passed(path, opts):
    cfg = load_config(path, opts)
    check_basic_blocks(cfg)
    check_support(cfg)
    assert "basic-blocks" not in {finding.code for finding in lint(cfg)}


@pytest.mark.parametrize(
    ("path", "opts", "words"),
    [
        (C4, HALF, "RES2_OUT_CHANNELS: 32, but .* build_resnet_backbone has 64.* to build_any_width_resnet_backbone$"),
        (C4, ["MODEL.RESNETS.RES2_OUT_CHANNELS", "256"], "RES2_OUT_CHANNELS: 256, but .*: set it to 64, or"),
        (NARROW, ["MODEL.BACKBONE.NAME", "build_resnet_backbone"], "RES2_OUT_CHANNELS: 32, but the ResNet-18 of"),
        (FCN, HALF, "RES2_OUT_CHANNELS: 32, but .* to build_any_width_resnet_backbone$"),
        (FPN, HALF, "RES2_OUT_CHANNELS: 32, but .* build_resnet_fpn_backbone has 64.*take a ResNet-50, which comes"),
        (
            C4,
            [*ANY_WIDTH, *HALF[2:]],
            r"STEM_OUT_CHANNELS: 64 \(RES2_OUT_CHANNELS 32\), but the ResNet-18 .*: set both$",
        ),
        (C4, HALF[:2], r"STEM_OUT_CHANNELS: 32 \(RES2_OUT_CHANNELS 64\), but .*: set both$"),
        (C4, [*ANY_WIDTH, HALF[0], "24", HALF[2], "24"], "STEM_OUT_CHANNELS: 24 .*a multiple of 16"),
        (C4, [*ANY_WIDTH, *HALF, "MODEL.RESNETS.WIDTH_PER_GROUP", "32"], "WIDTH_PER_GROUP: 32 has no effect .* at 64$"),
        (C4, ["MODEL.RESNETS.NUM_GROUPS", "32"], "NUM_GROUPS: 32 does not go with ResNet-18: .* set it to 1$"),
        (C4, [*ANY_WIDTH, *HALF, "MODEL.RESNETS.RES5_DILATION", "2"], "RES5_DILATION: 2 does not .* set it to 1$"),
        (C4, ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", DEFORMED], "DEFORM_ON_PER_STAGE: .*True.* does not go with"),
        (DC5, ["MODEL.RESNETS.DEPTH", "34"], "DEPTH: 34 has no dilated blocks.* build_dilated_c5_backbone: set it to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(path, opts, words):
    cfg = load_config(path, opts)
    for check in (check_basic_blocks, check_support):
        with pytest.raises(ConfigError, match=rf"^MODEL.RESNETS.{words}"):
            check(cfg)
    (found,) = [finding for finding in lint(cfg) if finding.code == "basic-blocks"]
    assert (found.level, (found.key, found.message)) == ("error", misfit(cfg))


def test_a_backbone_that_the_user_registered_is_the_users_affair():
    assert misfit(load_config(C4, [*HALF, "MODEL.BACKBONE.NAME", "my_backbone"])) is None
