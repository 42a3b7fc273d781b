"""The forward proof: both sides compute the same network, and a mistake in between shows."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch

from tests.transfer.convert.checkpoints import moco, sequential, trunk
from tests.transfer.convert.test_convert import caffe2
from transfer.convert import audit, forward, keymap, trunks
from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.convert import convert


def detectron2(state):
    return {keymap.trunk_to_detectron2(k): v for k, v in state.items() if not k.startswith("fc.")}


@pytest.mark.parametrize(("depth", "rule"), [(18, False), (50, False), (50, True)])
def test_every_naming_computes_the_same(depth, rule):
    state = {k: v for k, v in trunk(depth).items() if not k.startswith("fc.")}
    tensors = detectron2(state)
    architecture = infer_architecture(tensors)
    for naming, source in (("torchvision", state), ("sequential", sequential(state)), ("detectron2", tensors)):
        parity = audit.forward_parity(tensors, architecture, rule, source, naming)
        assert list(parity) == ["res2", "res3", "res4", "res5"] and max(parity.values()) < 1e-4, naming
    folded = {k: torch.as_tensor(v) for k, v in caffe2(state).items()}
    ours = tensors | {k: torch.zeros_like(v) for k, v in tensors.items() if k.endswith("running_mean")}
    ours |= {k: torch.ones_like(v) for k, v in tensors.items() if k.endswith("running_var")}
    assert max(audit.forward_parity(ours, architecture, rule, folded, "caffe2").values()) < 1e-4


def test_the_two_stride_rules_are_two_networks():
    tensors, x = detectron2(trunk(50)), torch.randn(1, 3, 64, 64)
    one, other = (forward.detectron2_forward(tensors, x, rule)["res5"] for rule in (True, False))
    assert float((one - other).abs().max()) > 1e-2


SWAPS = [("res2.1.conv1.", "res2.1.conv2."), ("res3.0.conv1.norm.bias", "res3.0.conv1.norm.weight")]


@pytest.mark.parametrize("swap", SWAPS, ids="conv norm".split())
@pytest.mark.parametrize("naming", ["torchvision", "sequential", "caffe2", "detectron2"])
def test_a_rule_that_confuses_tensors_of_one_shape_shows(tmp_path, monkeypatch, naming, swap):
    """As a mistake in `keymap` would; its inverse makes the same one, so neither side may go through both."""
    state = {k: v for k, v in trunk(18).items() if not k.startswith("fc.")}
    for key in state:
        if "bn1.bias" in key:
            state[key] = torch.rand_like(state[key])
    if naming == "caffe2":
        (tmp_path / "in.pth").write_bytes(pickle.dumps(caffe2(state)))
    elif naming == "detectron2":
        torch.save({"model": detectron2(state)}, tmp_path / "in.pth")
    else:
        content = moco(trunk(18) | state) if naming == "torchvision" else {"state_dict": sequential(state)}
        torch.save(content, tmp_path / "in.pth")
    where = "state_dict" if naming == "sequential" else None
    convert(tmp_path / "in.pth", tmp_path / "right.pkl", trunk=where)
    right, (a, b) = trunks.NAMINGS[naming], swap

    def wrong(key):
        name = right.rule(key)
        if name is None or not (name.startswith(a) or name.startswith(b)):
            return name
        return name.replace(a, b) if name.startswith(a) else name.replace(b, a)

    monkeypatch.setitem(trunks.NAMINGS, naming, replace(right, rule=wrong))
    with pytest.raises(AuditError, match="features of res[23] differ by"):
        convert(tmp_path / "in.pth", tmp_path / "wrong.pkl", trunk=where)
    assert not (tmp_path / "wrong.pkl").exists()


@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
def test_the_size_of_the_features_decides_nothing(tmp_path, monkeypatch, size):
    """Neither does a mix-up hide among small ones, nor rounding look like one among large ones; nor does layout."""
    state = trunk(18)
    for key in state:
        if key.startswith("layer4") and key.endswith(("bn2.weight", "downsample.1.weight")):
            state[key] = state[key] * size
    torch.save(moco({k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in state.items()}),
               tmp_path / "in.pth")  # fmt: skip
    done = convert(tmp_path / "in.pth", tmp_path / "right.pkl")
    assert max(done.parity.values()) < 1e-6  # rounding: 0 on some processors, not on others
    right = trunks.NAMINGS["torchvision"]
    swapped = {"res5.1.conv1.weight": "res5.1.conv2.weight", "res5.1.conv2.weight": "res5.1.conv1.weight"}
    wrong = replace(right, rule=lambda key: swapped.get(right.rule(key), right.rule(key)))
    monkeypatch.setitem(trunks.NAMINGS, "torchvision", wrong)
    with pytest.raises(AuditError, match="features of res5 differ by"):
        convert(tmp_path / "in.pth", tmp_path / "wrong.pkl")


@pytest.mark.parametrize("stage", [1, 3, 4])
def test_features_that_overflow_prove_nothing(tmp_path, stage):
    """Every weight is finite, and NaN is neither above a limit nor below it, wherever it stands among the stages."""
    state = trunk(18)
    for part in ("conv1", "bn1"):
        state[f"layer{stage}.0.{part}.weight"] *= 1e30
    torch.save(moco(state), tmp_path / "in.pth")
    with pytest.raises(AuditError, match=rf"features of .*res{stage + 1}.* are not finite"):
        convert(tmp_path / "in.pth", tmp_path / "out.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize(
    ("root", "wrap", "where"),
    [
        ("", lambda state: {"model": state}, None),
        ("", lambda state: state, None),
        ("module.", lambda state: {"model": state}, None),
        ("modelTeacher.", lambda state: {"model": state}, "modelTeacher.backbone."),
    ],
    ids=["model", "flat", "module", "teacher"],
)
def test_the_fifth_stage_of_a_c4_detector_comes_along(tmp_path, root, wrap, where):
    """It stands among the heads there, under the same wrappers as the backbone."""
    tensors = detectron2(trunk(18))
    place = {k: f"{root}{'roi_heads' if k.startswith('res5.') else 'backbone'}.{k}" for k in tensors}
    head = {f"{root}roi_heads.box_predictor.cls_score.weight": torch.zeros(3, 3)}
    torch.save(wrap({place[k]: v for k, v in tensors.items()} | head), tmp_path / "in.pth")
    done = convert(tmp_path / "in.pth", tmp_path / "out.pkl", trunk=where)
    assert done.metadata["tensors"] == 120 and max(done.parity.values()) < 1e-5 and list(head) == list(done.dropped)


def test_where_the_stride_is_stays_unknown(tmp_path):
    """A detector's file does not say it, and no shape does."""
    state = {f"backbone.bottom_up.{k}": v for k, v in detectron2(trunk(50)).items()}
    torch.save({"model": state, "__author__": "Detectron2 Model Zoo"}, tmp_path / "model_final.pth")
    done = convert(tmp_path / "model_final.pth", tmp_path / "out.pkl", emit_config=tmp_path / "out.yaml")
    assert done.metadata["stride_in_1x1"] is None
    assert any("STRIDE_IN_1X1 yourself" in note for note in done.notes)
    text = (tmp_path / "out.yaml").read_text()
    assert "STRIDE_IN_1X1:" not in text and "# They do not say MODEL.RESNETS.STRIDE_IN_1X1" in text
    again = convert(tmp_path / "out.pkl", tmp_path / "again.pkl")
    assert again.metadata["stride_in_1x1"] is None and json.loads((tmp_path / "again.pkl.json").read_text())
