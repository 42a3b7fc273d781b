"""One converted file initialises both engines, wholly and equally."""

from __future__ import annotations

import copy

import pytest
import torch

from pretrain.encoders import base_encoder
from pretrain.runtime.checkpoint import CheckpointError
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.config.load import load_config
from transfer.convert.convert import convert
from transfer.convert.read import read_weights

pytestmark = pytest.mark.d2


@pytest.mark.parametrize(
    ("arch", "extension"),
    [("resnet18", ".pkl"), ("resnet50", ".pth"), ("resnext50_32x8d", ".pkl"), ("resnet50_w2x", ".pth")],
)
def test_backbones_agree_and_no_key_is_left(tmp_path, small_config, small_opts, arch, extension):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from transfer.engines.d2.engine import Detectron2Engine, check_loaded
    from transfer.engines.tv.detector import build_detector
    from transfer.engines.tv.weights import load_weights

    torch.save(moco(base_encoder(arch)().state_dict()), tmp_path / "moco.pth.tar")
    path = tmp_path / f"trunk{extension}"
    facts = convert(tmp_path / "moco.pth.tar", path).metadata
    keys = {"DEPTH": "depth", "NUM_GROUPS": "groups", "WIDTH_PER_GROUP": "width_per_group",
            "STEM_OUT_CHANNELS": "stem_out_channels", "RES2_OUT_CHANNELS": "res2_out_channels"}  # fmt: skip
    opts = [*small_opts, "MODEL.RESNETS.NORM", "BN"]
    for key, fact in keys.items():
        opts += [f"MODEL.RESNETS.{key}", str(facts[fact])]
    theirs = build_model(load_config(small_config, opts, Detectron2Engine().defaults())).eval()
    DetectionCheckpointer(theirs).load(str(path))
    check_loaded(theirs, str(path))
    ours = build_detector(load_config(small_config, opts)).eval()
    fresh = load_weights(ours, read_weights(path), str(path))
    assert fresh and not any(n.startswith("backbone.") or ".layer4." in n for n in fresh)
    x = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        a, b = theirs.backbone(x)["res4"], ours.backbone(x)["res4"]
        assert float((a - b).abs().max()) <= 1e-5 * float(a.abs().max())
        roi = torch.randn(3, a.shape[1], 4, 4)
        a, b = theirs.roi_heads.res5[:-1](roi), ours.roi_heads.box_head.layer4(roi)
        assert float((a - b).abs().max()) <= 1e-5 * float(a.abs().max())


def test_a_partly_loaded_model_is_noticed(tmp_path, small_config, small_opts):
    """Detectron2's checkpointer only warns; the engine refuses."""
    from detectron2.modeling import build_model

    from transfer.engines.d2.engine import Detectron2Engine, check_loaded

    torch.save(moco(trunk(18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "trunk.pth")
    opts = [*small_opts, "MODEL.RESNETS.NORM", "BN"]
    model = build_model(load_config(small_config, opts, Detectron2Engine().defaults()))
    weights = read_weights(tmp_path / "trunk.pth")
    state = copy.deepcopy(model.state_dict())
    for key, value in weights.items():
        for name in (f"backbone.{key}", f"roi_heads.{key}"):
            if name in state and key != "res3.0.conv1.weight":
                state[name] = value
    model.load_state_dict(state)
    with pytest.raises(CheckpointError, match="1 tensors were not loaded .backbone.res3.0.conv1.weight"):
        check_loaded(model, str(tmp_path / "trunk.pth"))
