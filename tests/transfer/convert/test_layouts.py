"""Every layout is recognised by its structure, the right trunk is chosen, and what is ambiguous or unfit is refused."""

from __future__ import annotations

import pytest
import torch

from tests.transfer.convert.checkpoints import fully_sharded, layouts, mlp, moco, put, sequential, trunk
from tests.transfer.convert.test_convert import caffe2
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
    state = content
    for key in found.trunk.split(" > "):
        state = state.get(key, state)
    assert set(found.renamed).isdisjoint(found.dropped) and {*found.renamed, *found.dropped} == set(state)


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
        check(found, {k.split("encoder_k.")[1]: v for k, v in content["state_dict"].items() if "encoder_k." in k})
        assert found.facts["channel_order"] == "RGB" and found.trunk == "state_dict > module.encoder_k."
    assert recognise(content).others == ("state_dict > module.encoder_k. (left, as the rule says)",)
    student = recognise(CASES["dino"][1], trunk="student > backbone.")
    check(student, OTHER)
    unmarked = recognise({"state_dict": put("backbone.", T) | put("momentum_backbone.", OTHER)}, "momentum_backbone")
    assert unmarked.layout.name == "a trunk named backbone, its other trunk" and unmarked.facts is None
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
        (changed(layer1__0__avd_layer__weight=(3,)), r"no part of a standard ResNet \(layer1.0.avd_layer.weight\)"),
        (changed(layer1__0__avd__weight=(3,)), "pools in its blocks"),
        (changed(layer1__0__conv4__weight=(3,)), r"1 tensors within .* ResNet \(layer1.0.conv4.weight\)"),
        (changed(conv1__3__weight=(32, 32, 3, 3)), "deep stem"),
        (changed(stem__0__weight=(32, 3, 3, 3)), "deep stem"),
        (changed(conv2__weight=(32, 32, 3, 3), bn2__weight=(32,)), "deep stem"),
        (changed(attnpool__q_proj__weight=(4, 4)), "attention pooling"),
        (changed(ca1__fc__weight=(4, 4)), "squeeze-and-excitation or attention"),
        (changed(gn1__weight=(64,)), "another norm"),
        (changed(layer5__0__conv1__weight=(4, 4)), "other stages"),
        (changed(layer1__0__conv1__lora_A=(4, 4)), "reparametrised"),
        (changed(layer1___flat_param=(400,)), "FSDP's flattened parameters"),
        ({k: v for k, v in T.items() if "running" not in k and "num_batches" not in k}, "group norm"),
    ],
)
@pytest.mark.parametrize("prefix", ["module.encoder_q.", ""])
def test_other_resnets_are_refused_with_the_reason(state, reason, prefix):
    heads = mlp(prefix + "projector.", 0)  # heads hide nothing
    for content in (put(prefix, state), put(prefix, state) | heads):
        with pytest.raises(LayoutError, match=reason):
            recognise({"state_dict": content} if prefix else content)


@pytest.mark.parametrize("trunk", [None, "state_dict > module."])
@pytest.mark.parametrize(
    "head",
    [
        mlp("projection_head.", 0, 2),
        mlp("fc_proj.layers.", 0),
        mlp("neck.conv2.1.", 0) | mlp("decoder.attn.", 0),  # words of variants, but in a head
        {"n_averaged": torch.tensor(3), "queue": torch.zeros(4, 4), "center": torch.zeros(4)},
    ],
)
def test_heads_beside_a_whole_trunk_are_dropped_and_reported(head, trunk):
    found = recognise({"state_dict": put("module.", T | head)}, trunk)
    check(found)
    assert set(found.dropped) == set(put("module.", head))


@pytest.mark.parametrize(
    "name",
    ["bam1.", "NL_1.0.", "nl_2.", "cbam_1.", "ca_1.", "att1.", "se_layer1.", "channel_attention.", "bn_input.",
     "input_norm.", "stem_bn.", "conv1_1.", "pre_conv.", "adapter1.", "prelu.", "transition1.", "normalize."],
)  # fmt: skip
def test_what_may_be_no_head_is_refused_with_what_to_do(name):
    """Of attention between the stages nothing stands within them: a plain ResNet would compute something else."""
    state = put("module.", T | {name + "weight": torch.zeros(4)})
    for where in (None, "state_dict > module."):
        with pytest.raises(LayoutError) as caught:
            recognise({"state_dict": state, "arch": "resnet18"}, where)
        assert name.split(".")[0] in str(caught.value) or "not convertible" in str(caught.value)


def test_what_only_the_name_of_the_architecture_tells():
    """Pooling has no tensors."""
    for arch in ("resnetblur50", "resnetaa50", "seresnextaa101d_32x8d"):
        with pytest.raises(LayoutError, match=f"'{arch}', which blurs before its strides"):
            recognise({"arch": arch, "state_dict": T})
    check(recognise({"arch": "resnet18", "state_dict": T}))


def test_a_head_does_not_make_up_for_a_missing_tensor():
    """What is dropped is never what is missing: the coverage of the conversion refuses the rest."""
    found = recognise({"state_dict": changed(layer3__1__conv2__weight=None) | mlp("projector.", 0)})
    assert len(found.tensors) == 119 and set(found.dropped) == set(mlp("projector.", 0))


def test_detectron2_names_with_the_head_that_mocos_converter_keeps():
    found = recognise({"model": D2 | mlp("stem.fc.", 0, 2), "__author__": "MOCO"})
    check(found)
    assert set(found.dropped) == set(mlp("stem.fc.", 0, 2))
    with pytest.raises(LayoutError, match="deep stem"):
        recognise({"model": D2 | {"stem.conv2.weight": torch.zeros(32, 32, 3, 3)}})


def test_caffe2_names_with_the_heads_and_momentum_of_a_detector():
    blobs = caffe2(STATE)
    more = {"conv_rpn_w": torch.zeros(4), "res2_0_branch2a_w_momentum": torch.zeros(4), "lr": torch.zeros(1)}
    found = recognise({"blobs": blobs | more, "cfg": ""})
    assert set(found.dropped) == {*more, "fc1000_w"} and found.layout.batch_norm_folded and len(found.tensors) == 60
    with pytest.raises(LayoutError, match=r"no part of a standard ResNet \(res2_0_branch2d_w\)"):
        recognise(blobs | {"res2_0_branch2d_w": torch.zeros(4)})


@pytest.mark.parametrize(
    "wrapped",
    [
        put("backbone._orig_mod.", T),
        put("backbone.module.", T),
        put("module.backbone._orig_mod.", T),
        put("_orig_mod.module.backbone.", T),
        put("_fsdp_wrapped_module.backbone._fsdp_wrapped_module.", T),
        fully_sharded("backbone.", T),
        put("backbone._orig_mod.", sequential(T)),
        {k.replace("layer1.", "layer1._orig_mod.").replace("downsample.", "downsample.module."): v
         for k, v in put("backbone.", T).items()},
    ],
)  # fmt: skip
def test_wrappers_do_not_count_wherever_they_stand(wrapped):
    found = recognise({"state_dict": wrapped})
    check(found)
    assert found.layout.at[0] == "state_dict > backbone." and set(found.renamed) == set(wrapped)
    check(recognise({"state_dict": wrapped}, trunk="backbone"))


def test_a_wrapped_and_an_unwrapped_trunk_stay_two():
    """A wrapper at the front is part of where a trunk is, not of the names within it."""
    with pytest.raises(LayoutError, match="--trunk 'conv1.weight'.* --trunk 'module.'"):
        recognise(T | put("module.", OTHER))
    check(recognise(T | put("module.", OTHER), trunk="conv1.weight"))
    check(recognise(T | put("module.", OTHER), trunk="module."), OTHER)


@pytest.mark.parametrize(
    "content",
    [
        {"_fsdp_wrapped_module.flat_param": torch.zeros(100)},
        {"state_dict": {"encoder_q._flat_param": torch.zeros(100), "queue": torch.zeros(4)}},
        {"model": {f"module._fsdp_wrapped_module.layer{i}._flat_param": torch.zeros(9) for i in (1, 2)}},
        {"state_dict": {"_fpw_module.flat_param_0": torch.zeros(9)}},
    ],
)
@pytest.mark.parametrize("trunk", [None, "encoder_q."])
def test_flattened_parameters_are_named(content, trunk):
    with pytest.raises(LayoutError, match="FSDP's flattened parameters.*FULL_STATE_DICT.*full_state_dict=True$"):
        recognise(content, trunk)


@pytest.mark.parametrize("times", [0.25, 0.5, 2])
def test_basic_blocks_of_another_width_convert_if_their_stem_has_it(times):
    def scaled(value):
        return torch.zeros([n if n == 3 or i > 1 else int(times * n) for i, n in enumerate(value.shape)])

    whole = {k: scaled(v) if v.ndim else v for k, v in T.items()}
    assert infer_architecture(recognise(whole).tensors).name == f"resnet18_w{times:g}x"
    whole["conv1.weight"] = T["conv1.weight"]
    with pytest.raises(
        AuditError, match=f"res2 is {64 * times:g} channels wide, not 64, and the stem 64: a ResNet-18 "
    ):
        infer_architecture(recognise(whole).tensors)


def test_what_was_seen_is_there_and_the_advice_works():
    partial = {k: v for k, v in put("a0.", T).items() if ".conv1.weight" not in k or "layer" in k}
    with pytest.raises(LayoutError, match="no first convolution, were seen at: a0.bn1.weight.* --trunk 'a0.'"):
        recognise(partial)
    with pytest.raises(LayoutError, match="First convolutions were seen at: b0.conv1.weight. .* --trunk 'b0.'"):
        recognise(partial | put("b0.", OTHER))
    with pytest.raises(LayoutError, match="First convolutions were seen at: 0.weight. .* --trunk '0.weight'"):
        recognise(sequential(T))
    check(recognise(sequential(T), trunk="0.weight"))


def test_cmc_is_refused_with_the_reason():
    def half(channels):
        return T | {"conv1.weight": torch.zeros(64, channels, 7, 7)}

    content = {"model": put("module.encoder1.", half(1)) | put("module.encoder2.", half(2)) | mlp("module.head1.", 0)}
    with pytest.raises(LayoutError, match="Lab images"):
        recognise(content)


def test_names_that_start_alike_are_kept_apart():
    """`backbone.` and `backbone_momentum.`; the `bn.` of Barlow Twins is not the stem's."""
    found = recognise({"state_dict": put("backbone.", sequential(T)) | put("backbone_momentum.", sequential(OTHER))})
    assert found.layout.name == "a Sequential named backbone"
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
