"""Facts about images are stated only where a file or the marks of its project tell them."""

from __future__ import annotations

import json

import pytest
import torch

from tests.transfer.convert.checkpoints import caffe_style, layouts, mlp, put, trunk
from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.convert import convert, take
from transfer.convert.facts import BGR_MSRA, RGB_IMAGENET, configured_facts, stated_facts, statistics_folded
from transfer.convert.layouts import LAYOUTS, facts_of, recognise

STATE = trunk(18)
T = {k: v for k, v in STATE.items() if not k.startswith("fc.")}
DETECTOR = put("backbone.", T) | mlp("neck.lateral_convs.", 0) | mlp("rpn_head.", 0) | mlp("roi_head.bbox_head.", 0)
CAFFE = """
model = dict(type='FasterRCNN', backbone=dict(type='ResNet', depth=50, norm_eval=True, style='caffe'),
    roi_head=dict(bbox_head=dict(bbox_coder=dict(target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]))))
img_norm_cfg = dict(
    mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
train_pipeline = [dict(type='Normalize', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)]
"""
PYTORCH = """
model = dict(data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32), backbone=dict(style='pytorch'))
"""
FRACTIONS = "img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], to_rgb=True)"


def test_layouts_that_tell_a_project_state_its_images_and_others_do_not():
    untold = {
        "extracted, author named", "OpenMMLab detector", "a teacher and a student", "BYOL (bolts)", "BYOL (lucidrains)",
        "a bare trunk", "a trunk named backbone", "a Sequential named backbone", "a trunk named encoder",
        "Detectron2 trunk",
    }  # fmt: skip
    assert {layout.name for layout in LAYOUTS if layout.facts is None and not layout.refused} == untold
    for case, (name, content) in layouts(STATE).items():
        found = recognise(content)
        told = name not in untold or case in ("densecl, extracted", "mmselfsup, extracted")
        assert found.facts == (RGB_IMAGENET if told else None), case


@pytest.mark.parametrize(("author", "told"), [("DenseCL", True), ("MMSelfSup", True), ("OpenSelfSup", True),
                                              ("OpenMMLab", False), ("me", False), (3, False)])  # fmt: skip
def test_authors(author, told):
    found = recognise({"state_dict": T, "author": author})
    assert found.layout.name == "extracted, author named" and found.facts == (RGB_IMAGENET if told else None)


def test_a_config_may_write_tuples():
    text = CAFFE.replace("[103", "(103").replace("123.675]", "123.675)").replace("[1.0, 1.0, 1.0]", "(1.0, 1.0, 1.0)")
    assert "mean=(103" in text and configured_facts({"meta": {"cfg": text}}) == BGR_MSRA


@pytest.mark.parametrize(
    "odd",
    [
        {"pixel_mean": None},
        {"pixel_mean": [float("nan")] * 3},
        {"pixel_std": [1.0, 1.0, 0.0]},
        {"pixel_std": [True, 1.0, 1.0]},
        {"stride_in_1x1": 0},
        {"stride_in_1x1": torch.ones(2)},
        {"channel_order": torch.ones(2)},
        {"channel_order": None},
    ],
)
def test_facts_that_no_image_can_be_given_by_are_none(odd):
    assert stated_facts({"metadata": {**RGB_IMAGENET, **odd}}) is None


def test_of_what_stands_beside_the_facts_only_what_the_converter_writes_is_kept(tmp_path):
    odd = {"origin": torch.ones(3), "layout": torch.ones(2), "trunk": {1}, "source": "x.pth", "tensors_crc32": "1"}
    assert stated_facts({"metadata": {**RGB_IMAGENET, **odd}}) == {**RGB_IMAGENET, "source": "x.pth"}
    tensors = dict(take(written(tmp_path)).tensors)
    torch.save({"model": tensors, "metadata": {**RGB_IMAGENET, **odd}}, tmp_path / "y.pth")
    done = convert(tmp_path / "y.pth", tmp_path / "y.pkl")
    assert done.metadata["origin"] == {"source": "x.pth"} and json.loads((tmp_path / "y.pkl.json").read_text())


def written(folder):
    torch.save(STATE, folder / "x.pth")
    return folder / "x.pth"


@pytest.mark.parametrize("key", ["config", "cfg"])
def test_a_detector_says_in_its_config_how_it_was_trained(tmp_path, key):
    content = {"meta": {key: CAFFE, "mmdet_version": "2.25"}, "state_dict": DETECTOR, "optimizer": {}}
    assert recognise(content).layout.name == "OpenMMLab detector" and recognise(content).facts == BGR_MSRA
    assert recognise(content | {"meta": {key: PYTORCH}}).facts == RGB_IMAGENET
    torch.save(content, tmp_path / "x.pth")
    done = convert(tmp_path / "x.pth", tmp_path / "x.pkl")
    assert {k: done.metadata[k] for k in BGR_MSRA} == BGR_MSRA
    assert not any("channel order" in note for note in done.notes)


@pytest.mark.parametrize("meta", [{}, {"config": "model = dict()"}, {"config": 3}, None, {"config": CAFFE + PYTORCH}])
def test_a_detector_that_says_nothing_or_two_things_is_left_unstated(tmp_path, meta):
    torch.save({"meta": meta, "state_dict": DETECTOR}, tmp_path / "x.pth")
    taken = take(tmp_path / "x.pth")
    assert taken.facts["channel_order"] is None and taken.facts["pixel_mean"] is None
    assert any("does not say its channel order" in note for note in taken.notes)


def test_configs():
    assert configured_facts({"meta": {"config": FRACTIONS}}) == RGB_IMAGENET
    assert configured_facts({"meta": {"config": FRACTIONS.replace(", to_rgb=True", "")}}) is None
    assert set(configured_facts({"meta": {"config": CAFFE + PYTORCH}}).values()) == {None}
    for text in ("mean=[" * 100_000, "mean=[" + "1" * 500_000, "mean=[1.0, 1.0, 1.0], std=" * 40_000):
        assert configured_facts({"meta": {"config": text + "to_rgb=True"}}) is None
    for odd in ("[1.0, 1.0]", "[1.0, 1..0, 1.0]", "[-]", "[1 1 1]"):
        stated = configured_facts({"meta": {"config": CAFFE.replace("[1.0, 1.0, 1.0]", odd)}})
        assert set(stated.values()) == {None}
    pixels = CAFFE.replace("[1.0, 1.0, 1.0]", "[57.375, 57.12, 58.395]").replace(", style='caffe'", "")
    assert configured_facts({"meta": {"cfg": pixels}}) == {
        "channel_order": "BGR",
        "pixel_mean": [103.53, 116.28, 123.675],
        "pixel_std": [57.375, 57.12, 58.395],
        "stride_in_1x1": False,
    }


@pytest.mark.parametrize("depth", [18, 50])
def test_caffes_weights_under_torchvisions_names(tmp_path, depth):
    """As OpenMMLab's converter of Detectron files leaves them, with the stem's bias of zeros."""
    state = caffe_style({k: v for k, v in trunk(depth).items() if not k.startswith("fc.")})
    torch.save({"state_dict": state | {"conv1.bias": torch.zeros(64)}}, tmp_path / "resnet50_msra.pth")
    done = convert(tmp_path / "resnet50_msra.pth", tmp_path / "x.pkl")
    assert done.layout == "a bare trunk, statistics folded" and done.metadata["batch_norm"] == "folded"
    assert done.metadata["channel_order"] is None and done.metadata["pixel_std"] is None
    assert any("does not say its channel order" in note for note in done.notes)
    assert not any("untrained" in note for note in done.notes)
    assert recognise({"state_dict": state, "author": "MMSelfSup"}).facts is None and recognise(state).facts is None


def test_a_stem_bias_that_is_not_zero_is_refused(tmp_path):
    torch.save({"state_dict": caffe_style(T) | {"conv1.bias": torch.ones(64)}}, tmp_path / "x.pth")
    with pytest.raises(AuditError, match="stem.conv1.bias is more than it has"):
        take(tmp_path / "x.pth")


def test_what_counts_as_folded():
    def named(**changes):
        state = recognise(caffe_style(T)).tensors
        return state | {k.replace("__", "."): v for k, v in changes.items()}

    assert statistics_folded(named())
    assert statistics_folded({k: v.numpy() for k, v in named().items()})
    assert not statistics_folded(recognise(T).tensors)
    fresh = {k: torch.ones_like(v) if k.endswith("norm.weight") else v for k, v in named().items()}
    assert not statistics_folded(fresh)  # never trained
    zeroed = {k: torch.zeros_like(v) if k.endswith("conv2.norm.weight") else v for k, v in fresh.items()}
    assert not statistics_folded(zeroed)  # nor this: residual branches that start from nothing
    assert not statistics_folded(named(stem__conv1__norm__running_mean=torch.full((64,), 0.1)))
    odd = torch.ones(1).expand(1 << 40)
    for value in (odd, torch.ones(64, dtype=torch.int8), torch.ones(64).to_sparse(), torch.ones(64, device="meta")):
        assert not statistics_folded(named(stem__conv1__norm__running_var=value))


def test_facts_that_were_written_count_before_all_others():
    """What this converter wrote is believed, also that a fact is not known; what is only called metadata is not."""
    content = {"metadata": {**BGR_MSRA, "stride_in_1x1": None}, "state_dict": put("encoder_q.", T)}
    assert recognise(content).facts == content["metadata"]
    assert stated_facts({"metadata": json.dumps(BGR_MSRA)}) == BGR_MSRA
    for metadata in ({}, {"epoch": 3}, {**BGR_MSRA, "channel_order": "GRB"}, {**BGR_MSRA, "pixel_mean": [1]}, "[", 3):
        assert stated_facts({"metadata": metadata}) is None
        found = recognise({"metadata": metadata, "state_dict": put("encoder_q.", T)})
        assert found.facts == RGB_IMAGENET == facts_of(found, infer_architecture(found.tensors))
