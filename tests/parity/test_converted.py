"""One converted file initialises both engines, wholly and equally."""

from __future__ import annotations

import copy
import logging
import pickle

import numpy as np
import pytest
import torch

from pretrain.encoders import base_encoder
from pretrain.runtime.checkpoint import CheckpointError
from tests.architectures import ARCHITECTURES, options
from tests.transfer.convert.checkpoints import layouts, moco, trunk
from transfer.config.load import load_config
from transfer.convert.architecture import AuditError
from transfer.convert.convert import convert
from transfer.convert.keymap import trunk_part
from transfer.convert.read import read_weights

pytestmark = pytest.mark.d2
LOG = logging.getLogger(__name__)  # the counts: --log-cli-level INFO


@pytest.mark.parametrize(
    ("arch", "extension"),
    [("resnet18", ".pkl"), ("resnet50", ".pth"), ("resnext50_32x8d", ".pkl"), ("resnet50_w2x", ".pth"),
     ("resnet18_w0.5x", ".pkl")],
)  # fmt: skip
def test_backbones_agree_and_no_key_is_left(tmp_path, small_config, small_opts, arch, extension):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from transfer.engines.d2.engine import Detectron2Engine, check_loaded
    from transfer.engines.tv.adapters.instances import build_detector
    from transfer.engines.tv.weights import load_weights

    torch.save(moco(base_encoder(arch)().state_dict()), tmp_path / "moco.pth.tar")
    path = tmp_path / f"trunk{extension}"
    facts = convert(tmp_path / "moco.pth.tar", path).metadata
    keys = {"DEPTH": "depth", "NUM_GROUPS": "groups", "WIDTH_PER_GROUP": "width_per_group",
            "STEM_OUT_CHANNELS": "stem_out_channels", "RES2_OUT_CHANNELS": "res2_out_channels"}  # fmt: skip
    opts = [*small_opts, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.NAME", "build_any_width_resnet_backbone"]
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


@pytest.mark.parametrize("name", ["R18-C4", "R50-DC5", "R18-FPN", "R18-FPN-mask", "R18-C4-mask"])
def test_a_trunk_arrives_in_every_detector(tmp_path, generated, name):
    """Both engines accept a converted trunk for each of the papers' detectors, and then hold the same tensors of it."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from transfer.engines.d2.engine import Detectron2Engine, check_loaded
    from transfer.engines.tv.adapters.instances import build_detector
    from transfer.engines.tv.weights import detectron2_state, load_weights

    config, _ = ARCHITECTURES[name]
    opts = [*options(name, generated, tmp_path), "MODEL.RESNETS.NORM", "BN"]
    torch.save(moco(trunk(50 if "R50" in name else 18)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / "trunk.pkl")
    theirs = build_model(load_config(config, opts, Detectron2Engine().defaults()))
    DetectionCheckpointer(theirs).load(str(tmp_path / "trunk.pkl"))
    check_loaded(theirs, str(tmp_path / "trunk.pkl"))
    ours, weights = build_detector(load_config(config, opts)), read_weights(tmp_path / "trunk.pkl")
    load_weights(ours, weights, "trunk.pkl")
    a, b = theirs.state_dict(), detectron2_state(ours)
    parts = {key: part for key in a if (part := trunk_part(key)) is not None}
    assert sorted(parts.values()) == sorted(weights)
    assert all(torch.equal(a[key], weights[part]) and torch.equal(b[key], weights[part]) for key, part in parts.items())


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


@pytest.fixture(scope="module")
def r50(tmp_path_factory):
    """A MoCo ResNet-50 in both forms that Detectron2 reads, and its state dict without the classifier."""
    folder, state = tmp_path_factory.mktemp("r50"), trunk(50)
    torch.save(moco(state), folder / "moco.pth.tar")
    for suffix in (".pkl", ".pth"):
        convert(folder / "moco.pth.tar", folder / f"r50{suffix}")
    return folder, {k: v for k, v in state.items() if not k.startswith("fc.")}


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("detector", ["C4", "DC5", "FPN"])
def test_stock_detectors_match_every_backbone_key(r50, detector, suffix):
    """Detectron2's own configs and checkpointer: all 318 tensors of the file end up in the model, bit by bit."""
    from detectron2 import model_zoo
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from transfer.convert.keymap import trunk_to_detectron2

    folder, state = r50
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(f"COCO-Detection/faster_rcnn_R_50_{detector}_1x.yaml"))
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.DEVICE = "BN", False, "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    model = build_model(cfg)
    left = DetectionCheckpointer(model).load(str(folder / f"r50{suffix}"))
    assert left["metadata"]["arch"] == "resnet50" and left["matching_heuristics"]
    loaded = model.state_dict()
    trunks = ("backbone.stem.", "backbone.res", "backbone.bottom_up.", "roi_heads.res5.")
    keys = {k for k in loaded if k.startswith(trunks)}
    matched = 0
    for key, value in state.items():
        (name,) = [k for k in keys if k.endswith("." + trunk_to_detectron2(key))]
        assert torch.equal(loaded[name], value), name
        keys.remove(name)
        matched += 1
    assert matched == 318 and not keys
    LOG.info("%s from %s: %d backbone keys matched, %d left", detector, suffix, matched, len(keys))


@pytest.mark.parametrize("case", layouts(trunk(18)))
def test_every_layout_in_detectron2s_own_backbone(tmp_path, case):
    from transfer.engines.d2.verify import verify

    torch.save(layouts(trunk(18))[case][1], tmp_path / "x.pth")
    done = convert(tmp_path / "x.pth", tmp_path / "x.pkl", verify=verify)
    assert done.detectron2["backbone keys matched"] == "120 of 120" and done.detectron2["keys left"] == 0
    assert done.detectron2["max relative difference"] <= 1e-5


@pytest.mark.parametrize(
    "arch", ["resnet34", "resnet101", "resnet152", "resnext50_32x8d", "resnet50_w2x", "resnet18_w0.5x"]
)
def test_every_architecture_in_detectron2s_own_backbone(tmp_path, arch):
    from transfer.engines.d2.verify import verify

    state = trunk(152) if arch == "resnet152" else base_encoder(arch)().state_dict()  # no encoder of the papers
    torch.save(moco(state), tmp_path / "x.pth")
    done = convert(tmp_path / "x.pth", tmp_path / "x.pkl", verify=verify)
    n = done.metadata["tensors"]
    assert done.detectron2["backbone keys matched"] == f"{n} of {n}"


def test_features_that_overflow_are_no_agreement(tmp_path):
    """NaN is neither within the limit nor beyond it; the stages before it are not its proof."""
    from transfer.engines.d2.verify import verify

    torch.save(moco(trunk(18)), tmp_path / "x.pth")
    metadata = convert(tmp_path / "x.pth", tmp_path / "x.pth.pkl").metadata
    content = pickle.loads((tmp_path / "x.pth.pkl").read_bytes())
    for name in ("res4.0.conv1.weight", "res4.0.conv1.norm.weight"):
        content["model"][name] = content["model"][name] * np.float32(1e30)
    (tmp_path / "x.pth.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(AuditError, match="features of res4 differ by nan"):
        verify(tmp_path / "x.pth.pkl", metadata)


def test_a_file_that_detectron2_would_load_in_part_is_refused(tmp_path, r50):
    from transfer.engines.d2.verify import verify

    folder, _ = r50
    convert(folder / "moco.pth.tar", tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    content["model"]["res4.3.conv2.wait"] = content["model"].pop("res4.3.conv2.weight")
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(AuditError, match="left 1 of 318 backbone keys as they were and 1 keys of the file unused"):
        verify(tmp_path / "a.pth", content["metadata"])
