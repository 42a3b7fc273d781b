"""Each form of output: bit-equal after a round trip, the same bytes for the same input, facts inside, whole or gone."""

from __future__ import annotations

import json
import os
import pickle
import resource

import pytest
import torch
import yaml
from torchvision.models import resnet

from pretrain.encoders import base_encoder
from tests.conftest import ROOT
from tests.transfer.convert.checkpoints import moco, trunk
from tests.transfer.convert.test_convert import caffe2
from transfer.config.initial_weights import weights_facts
from transfer.config.lint import lint
from transfer.config.load import load_config
from transfer.convert.architecture import DEPTHS, Architecture, AuditError
from transfer.convert.convert import convert, take
from transfer.convert.keymap import trunk_to_detectron2
from transfer.convert.read import read_weights
from transfer.convert.write import OutputError, check_output, staged
from transfer.engines.tv.adapters import check_support
from transfer.engines.tv.adapters.instances import build_detector
from transfer.engines.tv.weights import load_weights

FORMS = [(".pkl", "detectron2"), (".pth", "detectron2"), (".pth", "torchvision"), (".safetensors", "torchvision"),
         (".safetensors", "detectron2")]  # fmt: skip
C4 = ROOT / "configs" / "transfer" / "voc" / "faster_rcnn_R_50_C4_24k.yaml"


def lively(model):
    torch.manual_seed(1)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    for key, value in state.items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return state


@pytest.fixture(scope="module")
def r18(tmp_path_factory):
    path = tmp_path_factory.mktemp("r18") / "moco.pth.tar"
    torch.save(moco(trunk(18)), path)
    return path


@pytest.mark.parametrize(("suffix", "names"), FORMS)
def test_every_form_keeps_tensors_and_facts(tmp_path, r18, suffix, names):
    done = convert(r18, tmp_path / f"a{suffix}", names=names)
    assert done.metadata["layout"] == "MoCo v1/v2" and done.metadata["names"] == names
    back = take(tmp_path / f"a{suffix}")
    for key, value in trunk(18).items():
        if not key.startswith("fc."):
            assert torch.equal(back.tensors[trunk_to_detectron2(key)], value)
    for key in ("channel_order", "pixel_mean", "pixel_std", "stride_in_1x1", "source_sha256", "tensors_crc32"):
        assert back.facts[key] == done.metadata[key], key
    assert json.loads((tmp_path / f"a{suffix}.json").read_text()) == done.metadata
    convert(r18, tmp_path / f"b{suffix}", names=names)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


SLOW = dict.fromkeys((101, 152), pytest.mark.slow)  # the same blocks as 50, and more of them


@pytest.mark.parametrize(
    "arch",
    [
        *(pytest.param(f"resnet{d}", marks=SLOW.get(d, ())) for d in DEPTHS),
        "resnet18_w0.5x",
        "resnext50_32x4d",
        pytest.param("resnext50_32x8d", marks=pytest.mark.slow),
    ],
)
def test_to_detectron2_and_back_is_bit_equal(tmp_path, arch):
    ours = arch in ("resnext50_32x8d", "resnet18_w0.5x")  # of MoCo's table or narrow: torchvision has none
    build = base_encoder(arch) if ours else getattr(resnet, arch)
    state = lively(build())
    torch.save(state, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pkl")
    convert(tmp_path / "b.pkl", tmp_path / "c.pth", names="torchvision")
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert list(back) == list(state) and all(torch.equal(back[k], v) for k, v in state.items())
    lost = build().load_state_dict(back, strict=False)
    assert lost.missing_keys == ["fc.weight", "fc.bias"] and not lost.unexpected_keys


def test_the_shapes_of_an_architecture_are_those_of_torchvision():
    wide = [Architecture(50, 32, 4), Architecture(101, 32, 8), Architecture(50, 1, 128), Architecture(50, 1, 128, 2)]
    wide += [Architecture(50, 1, 16, 0.25), Architecture(50, 1, 32, 0.5)]
    wide += [Architecture(18, 1, 64, 0.5), Architecture(34, 1, 64, 0.25), Architecture(18, 1, 64, 0.75)]
    for architecture in [*(Architecture(d, 1, 64) for d in DEPTHS), *wide, Architecture(50, 1, 256, 4)]:
        with torch.device("meta"):
            state = architecture.build().state_dict()
        named = {trunk_to_detectron2(k): tuple(v.shape) for k, v in state.items()}
        named.pop(None)
        assert architecture.shapes() == named


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double", "views", "shared"])
def test_other_precisions_and_shared_storages(tmp_path, kind):
    state = {k: v for k, v in trunk(18).items() if not k.startswith("fc.")}
    given = dict(state)
    if kind in ("half", "bfloat16", "double"):
        given = {k: getattr(v, kind)() if v.is_floating_point() else v for k, v in state.items()}
    elif kind == "views":  # of one large storage, out of order in memory
        flat = torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])
        at = 0
        for k, v in state.items():
            if v.is_floating_point():
                given[k] = flat[at : at + v.numel()].view(v.shape)
                at += v.numel()
        given["conv1.weight"] = state["conv1.weight"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    else:
        given["layer1.0.bn1.weight"] = given["bn1.weight"]
        state = given
    torch.save(given, tmp_path / "a.pth")
    for suffix, names in FORMS:
        done = convert(tmp_path / "a.pth", tmp_path / f"b{suffix}", names=names)
        back = take(tmp_path / f"b{suffix}").tensors
        for k, v in given.items():
            assert torch.equal(back[trunk_to_detectron2(k)], v.float() if v.is_floating_point() else v)
        assert any("converted to float32" in note for note in done.notes) == (kind in ("half", "bfloat16", "double"))
        assert (tmp_path / f"b{suffix}").stat().st_size < 46_000_000


def test_an_untrained_trunk_is_warned_about(tmp_path, r18):
    torch.manual_seed(0)
    torch.save(resnet.resnet18().state_dict(), tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pkl")
    assert any(note.startswith("warning: every batch norm has the statistics of init") for note in done.notes)
    assert not any("warning" in note for note in convert(r18, tmp_path / "c.pkl").notes)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("conv1.bias", torch.ones(64), "1 more than the 120 .*stem.conv1.bias is more than it has"),
        ("layer3.0.bn1.running_var", torch.zeros(256), "zero everywhere"),
        ("layer3.0.bn1.running_mean", torch.full((256,), torch.inf), "NaN or infinity"),
        ("layer3.0.conv1.weight", torch.zeros(256, 128, 3, 3, dtype=torch.int32), "int32"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, key, value, message):
    torch.save(trunk(18) | {key: value}, tmp_path / "a.pth")
    with pytest.raises(AuditError, match="(?s)" + message):
        convert(tmp_path / "a.pth", tmp_path / "b.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth"]


def test_a_flipped_bit_in_a_converted_pickle_is_noticed(tmp_path, r18):
    convert(r18, tmp_path / "a.pkl")
    content = pickle.loads((tmp_path / "a.pkl").read_bytes())
    content["model"]["res3.0.conv1.weight"][0, 0, 0, 0] += 1e-3
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(Exception, match="its tensors are not those that were written"):
        convert(tmp_path / "a.pkl", tmp_path / "b.pkl")


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("x.pth.tar", None, "must end in .pkl or .pth"),
        ("x.pkl", "torchvision", "reads no .pkl"),
        ("x.pth", "caffe2", "unknown names 'caffe2'; choose one of detectron2, torchvision"),
    ],
)
def test_outputs_that_nobody_reads(tmp_path, name, names, message):
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / name, names)


@pytest.mark.parametrize(("suffix", "names"), FORMS[:4])
def test_a_full_disk_leaves_the_earlier_file(tmp_path, r18, suffix, names):
    output = tmp_path / f"a{suffix}"
    output.write_bytes(b"earlier")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OutputError, match=f"cannot write 'a{suffix}'.*free space or choose another folder"):
            convert(r18, output, names=names)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert output.read_bytes() == b"earlier" and [p.name for p in tmp_path.iterdir()] == [output.name]


def test_a_check_that_fails_leaves_nothing(tmp_path, r18):
    seen = []

    def verify(path, metadata):
        seen.append((path.name, metadata["arch"], path.is_file()))
        raise AuditError("no")

    with pytest.raises(AuditError):
        convert(r18, tmp_path / "a.pkl", verify=verify)
    assert seen == [("a.pkl", "resnet18", True)] and not list(tmp_path.iterdir())
    with staged(tmp_path / "b", tmp_path / "c") as paths:
        for path in paths:
            path.write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("output", "config", "message"),
    [
        ("in.pth", None, "'.*in.pth' is what is read as well"),
        ("link.pth", None, "what is read as well"),
        ("w.pkl", "in.pth", "what is read as well"),
        ("w.pkl", "in.pth.json", "what is read as well"),
        ("w.pkl", "w.pkl", "'.*w.pkl' is another output as well"),
        ("w.pkl", "w.pkl.json", "'.*w.pkl.json' is another output as well"),
        ("w.pkl", "taken", "'.*taken' .it is a folder."),
        ("taken.pkl", None, "'.*taken.pkl.json' .it is a folder."),
        ("w" * 251 + ".pkl", None, "File name too long"),
        ("w.safetensors", "c.yaml", "no detector loads 'w.safetensors' with torchvision's names"),
    ],
)
def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, r18, output, config, message):
    (tmp_path / "in.pth").write_bytes(r18.read_bytes())
    (tmp_path / "link.pth").symlink_to(tmp_path / "in.pth")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken.pkl.json").mkdir()
    before = names_in(tmp_path)
    with pytest.raises(OutputError, match=message):
        convert(tmp_path / "in.pth", tmp_path / output, emit_config=None if config is None else tmp_path / config)
    assert names_in(tmp_path) == before and (tmp_path / "in.pth").read_bytes() == r18.read_bytes()


def test_everything_comes_or_nothing(tmp_path, r18):
    """The fragment's folder is made as the weights' is; a sidecar that cannot be named takes the weights with it."""
    convert(r18, tmp_path / "a" / "w.pkl", emit_config=tmp_path / "b" / "c.yaml")
    assert names_in(tmp_path / "a") == ["w.pkl", "w.pkl.json"] and names_in(tmp_path / "b") == ["c.yaml"]
    long = "w" * 247 + ".pkl"  # a file name; with .json behind it too long for one
    with pytest.raises(OutputError, match="File name too long"):
        convert(r18, tmp_path / "c" / long)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ['a"b.pkl', "back\\tslash.pkl", "two words: ä 😀.pkl", "#1.pkl"])
def test_the_fragment_quotes_what_it_is_given(tmp_path, r18, name):
    source = tmp_path / "line\nbreak.pth"
    source.write_bytes(r18.read_bytes())
    convert(source, tmp_path / name, emit_config=tmp_path / "c.yaml")
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["MODEL"]["WEIGHTS"] == str(tmp_path / name)


def test_a_source_whose_name_is_no_utf8(tmp_path):
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pkl")
    with open(source, "wb") as f:
        pickle.dump(caffe2(trunk(18)), f)
    convert(source, tmp_path / "a.pkl", emit_config=tmp_path / "c.yaml")
    assert "from \\udcff.pkl (" in (tmp_path / "c.yaml").read_text(encoding="utf-8")


def test_the_first_source_is_remembered(tmp_path, r18):
    first = convert(r18, tmp_path / "a.pkl").metadata
    back = convert(tmp_path / "a.pkl", tmp_path / "b.pth", names="torchvision").metadata
    third = convert(tmp_path / "b.pth", tmp_path / "c.pkl").metadata
    assert "origin" not in first and back["source"] == "a.pkl" and third["source"] == "b.pth"
    assert back["origin"] == third["origin"] == {k: first[k] for k in ("layout", "trunk", "source", "source_sha256")}


def test_torchvision_gets_no_weights_that_it_would_compute_otherwise(tmp_path):
    """MSRA's stride is in the 1x1 convolution; torchvision's ResNet-50 would take the tensors, and be wrong."""
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(caffe2(trunk(50))))
    convert(tmp_path / "R-50.pkl", tmp_path / "d2.pkl")
    for source in ("R-50.pkl", "d2.pkl"):
        for output in ("tv.pth", "tv.safetensors"):
            with pytest.raises(OutputError, match="it would load them and compute other features"):
                convert(tmp_path / source, tmp_path / output, names="torchvision")
    assert names_in(tmp_path) == ["R-50.pkl", "d2.pkl", "d2.pkl.json"]


@pytest.mark.parametrize("stated", [True, False])
def test_the_config_fragment_fits_the_weights(tmp_path, stated):
    state = trunk(50)
    content = moco(state) if stated else {"weights": state}
    torch.save(content, tmp_path / "a.pth")
    where = None if stated else "weights"
    convert(tmp_path / "a.pth", tmp_path / "b.pkl", trunk=where, emit_config=tmp_path / "c.yaml")
    text = (tmp_path / "c.yaml").read_text()
    fragment = yaml.safe_load(text)
    assert fragment["MODEL"]["WEIGHTS"] == str(tmp_path / "b.pkl") and fragment["MODEL"]["RESNETS"]["DEPTH"] == 50
    assert ("INPUT" in fragment) == stated and ("set them yourself" in text) != stated
    assert ("STRIDE_IN_1X1" in fragment["MODEL"]["RESNETS"]) == stated
    (tmp_path / "d.yaml").write_text(f'_BASE_: "{C4}"\n{text}')
    cfg = load_config(tmp_path / "d.yaml")
    assert [f for f in lint(cfg, weights_facts(cfg.MODEL.WEIGHTS)) if f.level == "error"] == []
    if stated:
        assert cfg.INPUT.FORMAT == "RGB" and not cfg.MODEL.RESNETS.STRIDE_IN_1X1


@pytest.mark.parametrize("architecture", [Architecture(18, 1, 64, 0.5), Architecture(34, 1, 64, 0.25)], ids=str)
def test_basic_blocks_of_another_width_with_the_fragment_make_a_detector(tmp_path, architecture):
    """What the fragment adds to the C4 config is what the linter, the engine and the weights ask for."""
    state = architecture.build().state_dict()
    torch.save(moco(state), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pkl", emit_config=tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text(f'_BASE_: "{C4}"\n{(tmp_path / "c.yaml").read_text()}')
    cfg = load_config(tmp_path / "d.yaml", ["MODEL.RESNETS.NORM", "BN"])
    assert cfg.MODEL.BACKBONE.NAME == "build_any_width_resnet_backbone" and cfg.MODEL.RESNETS.WIDTH_PER_GROUP == 64
    assert [f for f in lint(cfg, weights_facts(cfg.MODEL.WEIGHTS)) if f.level == "error"] == []
    check_support(cfg)
    model = build_detector(cfg)
    load_weights(model, read_weights(tmp_path / "b.pkl"), "b.pkl")
    assert torch.equal(model.backbone.layer3[1].conv2.weight, state["layer3.1.conv2.weight"])
    assert torch.equal(model.roi_heads.box_head.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])


def test_a_stem_bias_of_zeros_is_none(tmp_path):
    """As Caffe2's files have it, and what others made of them, whatever their names."""
    torch.save(trunk(18) | {"conv1.bias": torch.zeros(64)}, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "b.pkl").metadata["tensors"] == 120
