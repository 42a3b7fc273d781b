"""What is in a file, and that the verdict is the converter's."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from pretrain.encoders import base_encoder
from pretrain.runtime.checkpoint import CheckpointError
from tests.transfer.convert.checkpoints import moco, trunk
from tests.transfer.convert.test_convert import caffe2
from transfer.convert.architecture import AuditError
from transfer.convert.contents import as_text, contents
from transfer.convert.convert import convert, take


def written(path, content):
    torch.save(content, path)
    return path


def test_what_is_in_a_file(tmp_path):
    inside = contents(written(tmp_path / "moco.pth.tar", moco(trunk(18))))
    assert inside["layout"] == "MoCo v1/v2" and inside["takes"] == "state_dict > module.encoder_q."
    assert [t["at"] for t in inside["trunks"]] == ["state_dict > module.encoder_q.", "state_dict > module.encoder_k."]
    assert all(t["arch"] == "resnet18" and t["tensors"] == 120 for t in inside["trunks"])
    assert inside["top"]["epoch"] == "200" and inside["trust_calls"] == [] and inside["facts"]["channel_order"] == "RGB"
    assert inside["why_not"] is None and inside["notes"] == []
    assert "-> trunk at 'state_dict > module.encoder_q.': resnet18" in as_text(inside)
    assert as_text(inside).endswith("a conversion takes 'state_dict > module.encoder_q.'")
    json.dumps(inside)


def test_another_trunk(tmp_path):
    path = written(tmp_path / "moco.pth.tar", moco(trunk(18)))
    inside = contents(path, "encoder_k.")
    assert inside["takes"] == "state_dict > module.encoder_k." and inside["why_not"] is None
    assert "-> trunk at 'state_dict > module.encoder_k.'" in as_text(inside)
    inside = contents(path, "encoder_z.")
    assert inside["layout"] is None and "names no single trunk" in inside["why_not"] and len(inside["trunks"]) == 2


def test_facts_are_those_of_a_conversion(tmp_path):
    """FAIR's ResNeXt has the layout of MSRA's ResNet, and was trained on other pixels."""
    (tmp_path / "X-50.pkl").write_bytes(pickle.dumps(caffe2(base_encoder("resnext50_32x8d")().state_dict())))
    inside = contents(tmp_path / "X-50.pkl")
    assert inside["facts"] == dict(take(tmp_path / "X-50.pkl").facts)
    assert "pixel_std [57.375, 57.12, 58.395], stride in 3x3" in as_text(inside)
    assert any("folded into scale and shift" in note for note in inside["notes"])


def without(state, *names):
    return {k: v for k, v in state.items() if not k.startswith(names)}


BROKEN = {
    "missing": lambda s: without(s, "layer3.1.conv2.weight"),
    "a block less": lambda s: without(s, "layer2.1."),
    "NaN": lambda s: s | {"conv1.weight": s["conv1.weight"] * float("nan")},
    "dead": lambda s: s | {"bn1.running_var": torch.zeros(64)},
    "integers": lambda s: s | {"conv1.weight": s["conv1.weight"].int()},
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_a_conversion_refuses(tmp_path, how):
    """The reason is the converter's, and what is in the file is shown all the same."""
    path = written(tmp_path / "x.pth", BROKEN[how](trunk(18)))
    with pytest.raises(AuditError) as refusal:
        convert(path, tmp_path / "x.pkl")
    inside = contents(path)
    assert inside["why_not"] == str(refusal.value).replace("; nothing was written", "")
    assert inside["layout"] == "torchvision" and inside["facts"]["channel_order"] == "RGB" and len(inside["top"]) == 13
    assert f"no conversion: {inside['why_not']}" in as_text(inside) and "layer1.0.conv1" in as_text(inside)
    json.dumps(inside)


def test_a_damaged_weight_is_no_reason_to_show_nothing(tmp_path):
    state = trunk(18)
    path = written(tmp_path / "x.pth", state)
    raw = bytearray(path.read_bytes())
    raw[raw.index(state["layer4.1.conv2.weight"].numpy().tobytes()[:1000]) + 5] ^= 4
    path.write_bytes(bytes(raw))
    inside = contents(path)
    assert "res5.1.conv2.weight are not those that were written" in inside["why_not"] and len(inside["trunks"]) == 1
    path.write_bytes(path.read_bytes()[:50000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        contents(path)


def test_notes_of_the_values(tmp_path):
    fresh = base_encoder("resnet18")().state_dict()
    inside = contents(
        written(tmp_path / "x.pth", {k: v.half() if v.is_floating_point() else v for k, v in fresh.items()})
    )
    assert inside["why_not"] is None
    assert "and notes:\n  weights of float16 were converted to float32\n  warning: every batch norm" in as_text(inside)


def test_facts_that_json_has_not_are_left_out(tmp_path):
    facts = {"channel_order": None, "pixel_mean": None, "pixel_std": None, "stride_in_1x1": False}
    odd = {"loss": float("nan"), "more": [torch.ones(2)], "origin": {"hash": b"1"}}
    model = take(written(tmp_path / "x.pth", trunk(18))).tensors
    inside = contents(written(tmp_path / "y.pth", {"model": dict(model), "metadata": facts | odd}))
    assert inside["facts"] == facts
    assert "channel_order not stated, pixel_mean not stated, pixel_std not stated, stride in 3x3" in as_text(inside)
    json.dumps(inside, allow_nan=False)
