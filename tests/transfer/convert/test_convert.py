"""File to file: what is known converts, proven; everything else is refused and leaves nothing behind."""

from __future__ import annotations

import json
import pickle
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from pretrain.encoders import base_encoder
from pretrain.moco import MoCo
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.commands import status
from tests.conftest import ROOT
from tests.transfer.convert.checkpoints import moco, trunk
from tests.transfer.convert.test_read import Runs
from transfer.config.initial_weights import weights_facts
from transfer.convert import keymap
from transfer.convert.architecture import AuditError
from transfer.convert.convert import convert
from transfer.convert.layouts import LayoutError
from transfer.convert.read import read_weights
from transfer.convert.write import OutputError

TOOL = ROOT / "tools" / "convert-pretrain-to-detectron2.py"


@pytest.fixture(scope="module")
def r18():
    return trunk(18)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("extension", [".pkl", ".pth"])
def test_a_moco_checkpoint_becomes_its_trunk(tmp_path, depth, extension):
    state = trunk(depth)
    torch.save(moco(state), tmp_path / "moco.pth.tar")
    done = convert(tmp_path / "moco.pth.tar", tmp_path / f"out{extension}")
    weights = read_weights(tmp_path / f"out{extension}")
    assert len(weights) == {18: 120, 50: 318}[depth] == sum(row.found for row in done.coverage)
    for key, value in state.items():
        name = keymap.trunk_to_detectron2(key)
        assert (name is None) == key.startswith("fc.")
        if name is not None:
            assert torch.equal(weights[name], value)
    assert set(done.parity) == {"res2", "res3", "res4", "res5"} and max(done.parity.values()) == 0
    assert any("encoder_k" in name for name in done.dropped) and "module.queue" in done.dropped
    facts = json.loads((tmp_path / f"out{extension}.json").read_text())
    assert facts["arch"] == f"resnet{depth}" and facts["channel_order"] == "RGB" and not facts["stride_in_1x1"]
    assert facts["pixel_mean"] == [123.675, 116.28, 103.53] and len(facts["source_sha256"]) == 64


@pytest.mark.parametrize(
    ("arch", "name", "widths"),
    [
        pytest.param("resnet50_w2x", "resnet50_w2x", (1, 128, 128, 512), marks=pytest.mark.slow),
        ("resnet50_w0.5x", "resnet50_w0.5x", (1, 32, 32, 128)),
        ("resnet50_w0.25x", "resnet50_w0.25x", (1, 16, 16, 64)),
        ("resnet18_w0.5x", "resnet18_w0.5x", (1, 64, 32, 32)),
        ("resnext50_32x8d", "resnext50_32x8d", (32, 8, 64, 256)),
    ],
)
def test_encoders_of_table_1_convert(tmp_path, arch, name, widths):
    """Wider, narrower and grouped trunks, with the keys that a config needs for them (MoCo, Table 1)."""
    model = MoCo(base_encoder(arch), K=16)
    torch.save({"arch": arch, "state_dict": model.state_dict()}, tmp_path / "moco.pth.tar")
    done = convert(tmp_path / "moco.pth.tar", tmp_path / "out.pkl")
    keys = ("groups", "width_per_group", "stem_out_channels", "res2_out_channels")
    assert done.metadata["arch"] == name and tuple(done.metadata[key] for key in keys) == widths
    tensors = 120 if "18" in arch else 318
    assert sum(row.found for row in done.coverage) == tensors and max(done.parity.values()) == 0
    weights = read_weights(tmp_path / "out.pkl")
    last = model.encoder_q.layer4[-1]
    assert torch.equal(weights[f"res5.{len(model.encoder_q.layer4) - 1}.conv2.weight"], last.conv2.weight)


def test_layouts(tmp_path, r18):
    """The same trunk in every known wrapping gives the same tensors."""
    plain = {k: v for k, v in r18.items()}
    cases = {
        "torchvision": plain,
        "moco, unwrapped": moco(r18, prefix=""),
        "probe": {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in r18.items()}, "best_acc1": 60.0},
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        convert(tmp_path / f"{name}.pth", tmp_path / f"{name}.pkl")
        weights = read_weights(tmp_path / f"{name}.pkl")
        assert len(weights) == 120
        for key, value in weights.items():
            assert torch.equal(value, r18[keymap.trunk_to_torchvision(key)]), (name, key)
    again = convert(tmp_path / "torchvision.pkl", tmp_path / "again.pth")
    assert again.layout == "Detectron2 trunk" and again.metadata["channel_order"] == "RGB"


def test_without_num_batches_tracked(tmp_path):
    state = {k: v for k, v in trunk(50).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    done = convert(tmp_path / "old.pth", tmp_path / "out.pkl")
    assert done.metadata["tensors"] == 265 and sum(row.expected for row in done.coverage) == 265


def caffe2(state):
    """A trunk by Caffe2's names, its statistics folded away."""
    blobs = {"fc1000_w": np.zeros((1000, 2048), np.float32)}
    for key, value in state.items():
        name = keymap.trunk_to_detectron2(key)
        if name is None or "running" in key or "num_batches" in key:
            continue
        stage, rest = name.split(".", 1)
        kind = "bn_s" if rest.endswith("norm.weight") else "bn_b" if rest.endswith("norm.bias") else "w"
        if stage == "stem":
            blobs["conv1_w" if kind == "w" else f"res_conv1_{kind}"] = value.numpy()
        else:
            block, conv = rest.split(".")[:2]
            branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[conv]
            blobs[f"{stage}_{block}_branch{branch}_{kind}"] = value.numpy()
    return blobs


def test_msra_pickles_are_read_by_their_caffe2_names(tmp_path):
    """Statistics are folded there: identity is filled in, stride and colour order are MSRA's."""
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(caffe2(trunk(50))))
    done = convert(tmp_path / "R-50.pkl", tmp_path / "out.pkl")
    assert done.metadata["channel_order"] == "BGR" and done.metadata["stride_in_1x1"] is True
    assert done.metadata["tensors"] == 265 and max(done.parity.values()) < 1e-4
    weights = read_weights(tmp_path / "R-50.pkl")
    assert torch.equal(weights["res2.0.conv1.norm.running_var"], torch.ones(64))


def test_a_caffe2_resnext_is_fairs(tmp_path):
    """Converter, fragment and linter know that it was trained on other pixels than MSRA's, strides in the 3x3."""
    (tmp_path / "X-50.pkl").write_bytes(pickle.dumps(caffe2(base_encoder("resnext50_32x8d")().state_dict())))
    done = convert(tmp_path / "X-50.pkl", tmp_path / "out.pkl", emit_config=tmp_path / "out.yaml")
    expected = {"channel_order": "BGR", "pixel_std": [57.375, 57.120, 58.395], "stride_in_1x1": False}
    for facts in (done.metadata, weights_facts(str(tmp_path / "X-50.pkl")), weights_facts(str(tmp_path / "out.pkl"))):
        assert {key: facts[key] for key in expected} == expected
    fragment = yaml.safe_load((tmp_path / "out.yaml").read_text())
    assert fragment["MODEL"]["PIXEL_STD"] == expected["pixel_std"] and fragment["INPUT"]["FORMAT"] == "BGR"
    assert fragment["MODEL"]["RESNETS"]["NORM"] == "naiveSyncBN"


def test_output_is_the_same_bytes_for_the_same_input(tmp_path, r18):
    torch.save(r18, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "one.pkl")
    convert(tmp_path / "a.pth", tmp_path / "two.pkl")
    assert (tmp_path / "one.pkl").read_bytes() == (tmp_path / "two.pkl").read_bytes()


def broken(state, how):
    state = dict(state)
    if how == "missing":
        del state["layer3.1.conv2.weight"]
    elif how == "shape":
        state["layer4.0.bn1.weight"] = torch.zeros(3)
    elif how == "nan":
        state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"] * float("nan")
    elif how == "variance":
        state["bn1.running_var"] = -state["bn1.running_var"]
    elif how == "block":
        state = {k: v for k, v in state.items() if not k.startswith("layer2.1.")}
    elif how == "se":
        state["layer1.0.se.weight"] = torch.zeros(1)
    return state


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("missing", AuditError, "only 119 of the 120 .* res4.1.conv2.weight is missing"),
        ("shape", AuditError, r"res5.0.conv1.norm.weight is \(3,\), not \(512,\)"),
        ("nan", AuditError, "res3.0.conv1.weight holds NaN"),
        ("variance", AuditError, "stem.conv1.norm.running_var is negative"),
        ("block", AuditError, "no ResNet-18, 34, 50"),
        ("se", LayoutError, "squeeze-and-excitation"),
    ],
)
def test_a_wrong_trunk_is_refused_and_nothing_is_written(tmp_path, r18, how, error, message):
    torch.save(moco(broken(r18, how)), tmp_path / "bad.pth.tar")
    with pytest.raises(error, match="(?s)" + message):
        convert(tmp_path / "bad.pth.tar", tmp_path / "out.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pth.tar"]


class _Hostile:
    def __reduce__(self):
        return (runpy.run_path, ("evil.py",))


def write_bad(kind, path, state):
    if kind == "simsiam":
        torch.save({"state_dict": {f"module.encoder.{k}": v for k, v in state.items()}}, path)
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:10000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "hostile pickle":
        path.write_bytes(pickle.dumps({"model": _Hostile(), "__author__": "x"}))
    elif kind == "hostile zip":
        torch.save({"state_dict": state, "extra": _Hostile()}, path)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("simsiam", LayoutError, "First convolutions were seen at: state_dict > module.encoder.conv1.weight"),
        ("truncated", CheckpointError, "cannot read"),
        ("empty", CheckpointError, "cannot read"),
        ("text", CheckpointError, "cannot read"),
        ("hostile pickle", CheckpointError, "runpy.*which is not data"),
        ("hostile zip", CheckpointError, "cannot read"),
        ("absent", CheckpointError, "does not exist"),
    ],
)
def test_an_unreadable_file_is_refused_and_nothing_is_written(tmp_path, r18, kind, error, message):
    write_bad(kind, tmp_path / "in.pkl", r18)
    with pytest.raises(error, match="(?s)" + message):
        convert(tmp_path / "in.pkl", tmp_path / "out.pkl")
    assert not (tmp_path / "out.pkl").exists() and not (tmp_path / "out.pkl.json").exists()


def test_an_extension_that_detectron2_would_misread_is_refused_at_once(tmp_path):
    with pytest.raises(OutputError, match=r"must end in .pkl or .pth"):
        convert(tmp_path / "whatever", tmp_path / "out.pth.tar")


def test_the_tool(tmp_path, r18, capsys, monkeypatch):
    tool = runpy.run_path(str(TOOL))
    monkeypatch.setitem(tool["main"].__globals__, "detectron2_verify", lambda: None)
    torch.save(moco(r18), tmp_path / "in.pth.tar")
    source, output = str(tmp_path / "in.pth.tar"), str(tmp_path / "out.pkl")
    assert tool["main"]([source, output]) == 0
    said = capsys.readouterr().out
    assert "total        120       120" in said and "other trunk: state_dict > module.encoder_k. (left" in said
    assert tool["main"]([source, output, "--json", "--trunk", "encoder_k", "--emit-config", output + ".yaml"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["proven"] and report["trunk"] == "state_dict > module.encoder_k."
    assert sum(stage["mapped"] for stage in report["stages"]) == 120 == report["metadata"]["tensors"]
    assert "DEPTH: 18" in (tmp_path / "out.pkl.yaml").read_text()
    torch.save({"state_dict": {}}, tmp_path / "none.pth")
    assert status(tool["main"], [str(tmp_path / "none.pth"), str(tmp_path / "no.pkl")]) == 2
    assert capsys.readouterr().err.startswith("error: no known layout") and not (tmp_path / "no.pkl").exists()
    assert status(tool["main"], [str(tmp_path / "none.pth"), str(tmp_path / "no.pkl"), "--json"]) == 2
    said = capsys.readouterr()
    refusal = json.loads(said.out)
    assert refusal["proven"] is False and said.err == f"error: {refusal['error']}\n"


def test_trust_says_what_it_runs_before_it_does(tmp_path, r18, capsys, monkeypatch):
    main = runpy.run_path(str(TOOL))["main"]
    monkeypatch.setitem(main.__globals__, "detectron2_verify", lambda: None)
    torch.save({"state_dict": r18, "extra": Runs(tmp_path / "canary")}, tmp_path / "in.pth")
    assert status(main, [str(tmp_path / "in.pth"), str(tmp_path / "out.pkl")]) == 2
    assert "asks for posix.mkdir" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists() and not (tmp_path / "out.pkl").exists()
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "out.pkl"), "--trust"]) == 0
    assert capsys.readouterr().err.startswith("--trust: unpickling calls posix.mkdir")
    assert (tmp_path / "canary").is_dir() and (tmp_path / "out.pkl").is_file()


_PIPES = {"capture_output": True, "text": True}


def test_equal_to_the_references_converter(tmp_path, moco_reference):
    torch.save(moco(trunk(50)), tmp_path / "in.pth.tar")
    script = moco_reference / "detection" / "convert-pretrain-to-detectron2.py"
    subprocess.run([sys.executable, script, tmp_path / "in.pth.tar", tmp_path / "ref.pkl"], check=True, **_PIPES)
    convert(tmp_path / "in.pth.tar", tmp_path / "ours.pkl")
    with open(tmp_path / "ref.pkl", "rb") as a, open(tmp_path / "ours.pkl", "rb") as b:
        theirs, ours = pickle.load(a), pickle.load(b)
    head = {k for k in theirs["model"] if k.startswith("stem.fc.")}
    assert set(theirs["model"]) - head == set(ours["model"]) and len(head) == 4
    for key, value in ours["model"].items():
        assert value.dtype == theirs["model"][key].dtype and np.array_equal(value, theirs["model"][key])
    assert theirs["matching_heuristics"] and ours["matching_heuristics"]
