"""How far two trunks are apart."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from tests.transfer.convert.checkpoints import trunk
from transfer.convert.architecture import AuditError
from transfer.convert.convert import take
from transfer.convert.distance import as_text, compare, draw
from transfer.convert.facts import BGR_FAIR, BGR_MSRA, RGB_IMAGENET
from transfer.convert.write import OutputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    state = {k: v for k, v in trunk(18).items()}
    torch.save(state, path / "a.pth")
    torch.save({k: v * 2 if k == "layer2.0.conv1.weight" else v for k, v in state.items()}, path / "b.pth")
    torch.save({k: v + 1 if k == "bn1.running_mean" else v for k, v in state.items()}, path / "c.pth")
    torch.save(trunk(34), path / "r34.pth")
    return path


def test_distances_by_hand(folder):
    a, b, c = (take(folder / f"{name}.pth") for name in "abc")
    assert all(g.distance == 0 and g.cosine == pytest.approx(1) and g.mean_drift == 0 for g in compare(a, a).stages)
    rows = {g.stage: g for g in compare(a, b).stages}
    convolutions = [v for k, v in a.tensors.items() if k.startswith("res3.") and v.ndim == 4]
    total = sum(float(v.double().square().sum()) for v in convolutions) ** 0.5
    doubled = float(a.tensors["res3.0.conv1.weight"].double().norm())
    assert rows["res3"].distance == pytest.approx(doubled / total)
    dot = total**2 + doubled**2
    assert rows["res3"].cosine == pytest.approx(dot / (total * (total**2 + 3 * doubled**2) ** 0.5))
    assert all(rows[s].distance == 0 for s in ("stem", "res2", "res4", "res5"))
    drift = {g.stage: g.mean_drift for g in compare(a, c).stages}
    expected = float((1 / (a.tensors["stem.conv1.norm.running_var"].double() + 1e-5).sqrt()).mean())
    assert drift["stem"] == pytest.approx(expected) and drift["res2"] == 0
    with pytest.raises(AuditError, match="is a resnet18, .* a resnet34: not comparable"):
        compare(a, take(folder / "r34.pth"))


@pytest.fixture(scope="module")
def a(folder):
    return take(folder / "a.pth")


def changed(taken, **tensors):
    return replace(taken, tensors={**taken.tensors, **{k.replace("__", "."): v for k, v in tensors.items()}})


def test_stems_of_two_channel_orders(a):
    """The same network for BGR: its distance is 0, and the reader is told of the flip."""
    stem = a.tensors["stem.conv1.weight"]
    bgr = replace(changed(a, stem__conv1__weight=stem.flip(1)), facts=BGR_FAIR)
    found = compare(a, bgr)
    assert [g.distance for g in found.stages] == [0] * 5
    assert found.notes == ("B's stem takes BGR, A's RGB: its input channels were flipped to compare them",)
    as_they_are = compare(a, replace(bgr, facts=RGB_IMAGENET))
    assert as_they_are.stages[0].distance > 0.5 and not as_they_are.notes
    unsaid = compare(replace(a, facts={**a.facts, "channel_order": None}), bgr)
    assert unsaid.stages[0] == as_they_are.stages[0]
    assert unsaid.notes == ("A does not say its channel order: the stems are compared as they are",)
    assert "divided by 58.395, 57.12, 57.375, B's by 1, 1, 1" in compare(a, replace(bgr, facts=BGR_MSRA)).notes[1]


def test_folded_statistics_are_not_compared(a):
    folded = replace(a, facts={**a.facts, "batch_norm": "folded"})
    for pair, letters, scale in (((a, folded), "B", None), ((folded, a), "A", None), ((folded, folded), "A and B", 0)):
        found = compare(*pair)
        assert all((g.distance, g.mean_drift, g.variance_ratio, g.scale) == (0, None, None, scale)
                   for g in found.stages)  # fmt: skip
        (note,) = found.notes
        assert f"statistics of {letters} are folded into scale and shift" in note and note in as_text(found)
    row = next(line.split() for line in as_text(compare(a, folded)).splitlines() if line.startswith("res2"))
    assert row == ["res2", "0.0000", "1.0000", "-", "-", "-"]


def test_statistics_of_initialisation_are_noted(a):
    plain = {k: torch.zeros_like(v) if k.endswith("mean") else torch.ones_like(v) - 1e-5 if k.endswith("var") else v
             for k, v in a.tensors.items()}  # fmt: skip
    assert "every batch norm of B has mean 0 and variance 1" in compare(a, replace(a, tensors=plain)).notes[0]


@pytest.mark.parametrize(
    ("name", "value", "lost", "note"),
    [
        ("res2.0.conv1.weight", float("nan"), {"distance", "cosine"}, "NaN or infinity in res2.0.conv1.weight"),
        ("res2.0.conv1.norm.weight", float("inf"), {"scale"}, "NaN or infinity in res2.0.conv1.norm.weight"),
        (
            "res2.0.conv1.norm.running_var",
            -1.0,
            {"variance_ratio"},
            "negative variances in res2.0.conv1.norm.running_var",
        ),
    ],
)
def test_numbers_that_there_are_not(a, name, value, lost, note):
    found = compare(a, changed(a, **{name: torch.full_like(a.tensors[name], value)}))
    gone = {g.stage: {k for k, v in asdict(g).items() if v is None} for g in found.stages}
    assert gone == {"stem": set(), "res2": lost, "res3": set(), "res4": set(), "res5": set()}
    assert found.notes == (f"B has {note}, so some numbers are missing",)
    json.dumps(asdict(found), allow_nan=False)


def test_convolutions_of_zeros(a):
    empty = {k: torch.zeros_like(v) if k.startswith("res3") and v.ndim == 4 else v for k, v in a.tensors.items()}
    rows = {g.stage: g for g in compare(replace(a, tensors=empty), a).stages}
    assert rows["res3"].distance is rows["res3"].cosine is None and rows["res3"].mean_drift == 0
    assert rows["res2"].distance == 0
    found = compare(a, replace(a, tensors=empty))
    assert found.stages[2].distance == pytest.approx(1) and found.stages[2].cosine is None
    assert found.notes == ("B has convolutions of res3 that are all zero, so some numbers are missing",)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_the_picture(folder, a, tmp_path, suffix, magic):
    draw(compare(a, take(folder / "b.pth")), tmp_path / f"gap{suffix}")
    assert (tmp_path / f"gap{suffix}").read_bytes().startswith(magic)


def test_a_picture_of_odd_names_and_no_numbers(folder, a, tmp_path):
    """File names are no formulas."""
    torch.save(trunk(18), tmp_path / r"$\frac$.pth")
    folded = replace(take(tmp_path / r"$\frac$.pth"), facts={**a.facts, "batch_norm": "folded"})
    draw(compare(folded, a), tmp_path / "gap.svg")
    assert (tmp_path / "gap.svg").stat().st_size > 1000


@pytest.mark.parametrize("name", ["g.xyz", "g.pth", "g.json", "g"])
def test_a_picture_of_another_format(a, tmp_path, name):
    with pytest.raises(OutputError, match=rf"{name}' must end in one of .png, .pdf, .svg"):
        draw(compare(a, a), tmp_path / name)
    assert not list(tmp_path.iterdir())
