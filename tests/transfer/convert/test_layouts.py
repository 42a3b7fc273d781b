"""Every layout is recognised by its structure, the right trunk is chosen, and what is ambiguous or unfit is refused."""

from __future__ import annotations

import pytest
import torch

from tests.transfer.convert.checkpoints import layouts, mlp, moco, put, sequential, trunk
from transfer.convert import keymap
from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.layouts import DETECTORS, LAYOUTS, LayoutError, recognise

STATE = trunk(18)
T = {k: v for k, v in STATE.items() if not k.startswith("fc.")}
OTHER = {k: v + 1 for k, v in T.items()}
CASES = layouts(STATE)


def check(found, state=STATE):
    assert len(found.tensors) == 120
    for name, value in found.tensors.items():
        assert torch.equal(torch.as_tensor(value), state[keymap.trunk_to_torchvision(name)]), name


@pytest.mark.parametrize("case", CASES)
def test_every_layout_gives_the_same_trunk(case, tmp_path):
    name, content = CASES[case]
    torch.save(content, tmp_path / "x.pth")
    found = recognise(torch.load(tmp_path / "x.pth", weights_only=True))
    assert found.layout.name == name
    check(found)
    assert set(found.renamed) | set(found.dropped) and not set(found.renamed) & set(found.dropped)


def test_every_entry_of_the_table_has_a_case():
    tested = {name for name, _ in CASES.values()}
    others = {"CMC (PyContrast)", "Detectron2 trunk", "Caffe2 (MSRA)", "a trunk named backbone"}  # below and elsewhere
    assert {layout.name for layout in LAYOUTS} == tested | others


D2 = {keymap.trunk_to_detectron2(k): v for k, v in T.items()}


@pytest.mark.parametrize(
    ("prefixes", "extra"),
    [
        ({"": ""}, {}),
        ({"": "backbone.bottom_up."}, {"backbone.fpn_lateral2.weight": torch.zeros(4, 4, 1, 1)}),
        ({"": "backbone."}, {"backbone.reduce.weight": torch.zeros(4, 4, 3, 3)}),
        ({"": "backbone.", "res5": "roi_heads."}, {"roi_heads.res5.norm.weight": torch.zeros(4)}),
    ],
)
def test_detectron2_trunks_and_detectors(prefixes, extra):
    """FPN, dilated C5 and C4, whose res5 is in its heads."""
    model = {prefixes.get(k.split(".")[0], prefixes[""]) + k: v for k, v in D2.items()}
    found = recognise({"model": model | extra, "__author__": "MOCO"}, detectors=True)
    check(found)
    assert found.layout in (*DETECTORS, *LAYOUTS) and found.facts["channel_order"] == "RGB"
    if prefixes[""]:
        with pytest.raises(LayoutError, match="no known layout"):
            recognise({"model": model | extra})


def test_a_trunk_named_backbone():
    found = recognise({"state_dict": put("backbone.", T)})
    check(found)
    assert found.layout.name == "a trunk named backbone"


def test_the_other_trunk_can_be_chosen():
    content = moco(STATE)
    for wanted in ("state_dict > module.encoder_k.", "state_dict > encoder_k.", "encoder_k", "encoder_k."):
        found = recognise(content, trunk=wanted)
        check(found, {k: v + 1 for k, v in STATE.items()})
        assert found.facts["channel_order"] == "RGB" and found.trunk == "state_dict > module.encoder_k."
    assert recognise(content).others == ("state_dict > module.encoder_k. (left, as the rule says)",)
    student = recognise(CASES["dino"][1], trunk="student > backbone.")
    check(student, OTHER)
    with pytest.raises(LayoutError, match=r"no single trunk .* 'state_dict > module.encoder_q.'; 'state_dict > mod"):
        recognise(content, trunk="encoder")


def test_an_unlisted_place_needs_to_be_named():
    content = {"weights": put("net.body.", T)}
    with pytest.raises(LayoutError, match="seen at: weights > net.body.conv1.weight.* --trunk 'weights > net.body.'"):
        recognise(content)
    found = recognise(content, trunk="weights > net.body.")
    check(found)
    assert found.facts is None and found.layout.name == "unlisted layout"


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": put("backbone.", T) | put("teacher_net.", OTHER)},
        {"state_dict": put("backbone.", T) | put("module.backbone.", OTHER)},
        {"model": put("module.backbone.", T), "copy": put("backbone.", OTHER)},
        {"state_dict": put("encoder_q.", T) | put("encoder_k.", OTHER) | put("third.", OTHER)},
        {"state_dict": put("backbone.", T) | put("encoder_q.0.", OTHER)},  # no alias: other values
    ],
)
def test_ambiguity_shows_the_candidates(content):
    with pytest.raises(LayoutError, match=r"holds [23] trunks, and no rule says which: --trunk '.*'.*; --trunk '"):
        recognise(content)


def changed(**tensors):
    state = dict(T)
    for name, value in tensors.items():
        name = name.replace("__", ".")
        if value is None:
            state.pop(name)
        else:
            state[name] = torch.zeros(value)
    return state


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (changed(conv1__weight=None, conv1__0__weight=(32, 3, 3, 3), conv1__3__weight=(32, 32, 3, 3)), "deep stem"),
        (changed(conv1__weight=(64, 3, 3, 3)), "stem for small images"),
        (changed(conv1__weight=(64, 1, 7, 7)), "sees 1 of 3 colour"),
        (changed(conv1__weight=(64, 2, 7, 7)), "sees 2 of 3 colour"),
        (changed(conv1__weight=(64, 4, 7, 7)), "takes 4 channels"),
        (changed(conv1__weight=(64, 3, 5, 5)), "is 5x5"),
        (changed(layer2__0__downsample__2__weight=(128,)), "ResNet-D"),
        (changed(layer2__0__se__fc1__weight=(8, 128, 1, 1)), "squeeze-and-excitation"),
        (changed(layer2__0__conv2_offset__weight=(18, 128, 3, 3)), "deformable"),
        (changed(layer2__0__something__weight=(3,)), "no part of a standard ResNet"),
    ],
)
@pytest.mark.parametrize("prefix", ["module.encoder_q.", ""])
def test_other_resnets_are_refused_with_the_reason(state, reason, prefix):
    with pytest.raises(LayoutError, match=reason):
        recognise({"state_dict": put(prefix, state)} if prefix else state)


def test_cmc_is_refused_with_the_reason():
    def half(channels):
        return T | {"conv1.weight": torch.zeros(64, channels, 7, 7)}

    content = {"model": put("module.encoder1.", half(1)) | put("module.encoder2.", half(2)) | mlp("module.head1.", 0)}
    with pytest.raises(LayoutError, match="Lab images"):
        recognise(content)


def test_names_that_start_alike_are_kept_apart():
    """`backbone.` and `backbone_momentum.`; the `bn.` of Barlow Twins is not the stem's."""
    found = recognise({"state_dict": put("backbone.", sequential(T)) | put("backbone_momentum.", sequential(OTHER))})
    assert not any("momentum" in name for name in found.renamed)
    assert not any(name.startswith("module.bn.") for name in recognise(CASES["barlow twins"][1]).renamed)


def test_a_checkpoint_that_holds_itself():
    content = moco(STATE)
    content["again"] = content
    check(recognise(content))


def test_sizes_that_only_an_attack_has():
    endless = {k: torch.ones(1).expand(1 << 40) if v.ndim == 4 else v for k, v in T.items()}
    with pytest.raises(LayoutError, match="holds 2 trunks"):
        recognise({"state_dict": put("a.", endless) | put("backbone.", endless)})
    far = {keymap.trunk_to_detectron2(k): v for k, v in T.items()} | {f"res2.{'9' * 5000}.conv1.weight": torch.zeros(1)}
    with pytest.raises(AuditError, match="which no ResNet has"):
        infer_architecture(far)
    none = {keymap.trunk_to_detectron2(k): v for k, v in trunk(50).items() if not k.startswith("fc.")}
    none["res2.0.conv2.weight"] = torch.zeros(64, 0, 3, 3)
    assert infer_architecture(none).depth == 50


@pytest.mark.parametrize("content", [None, [], 3, {}, {"state_dict": None}, {1: 2}, {"model": {"a": torch.zeros(2)}}])
def test_no_trunk_at_all(content):
    with pytest.raises(LayoutError, match="no known layout fits this checkpoint. No trunk was found"):
        recognise(content)
