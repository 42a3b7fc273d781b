"""What is in a file, and how far two are apart, through the tool."""

from __future__ import annotations

import json

import pytest
import torch

from tests.tools.test_errors import tool
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.convert import keymap
from transfer.convert.compare import compare, draw
from transfer.convert.contents import as_text, contents
from transfer.convert.convert import AuditError, take


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    state = {k: v for k, v in trunk(18).items()}
    torch.save(moco(state), path / "moco.pth.tar")
    torch.save(state, path / "a.pth")
    torch.save({k: v * 2 if k == "layer2.0.conv1.weight" else v for k, v in state.items()}, path / "b.pth")
    torch.save({k: v + 1 if k == "bn1.running_mean" else v for k, v in state.items()}, path / "c.pth")
    torch.save(trunk(34), path / "r34.pth")
    return path


def test_what_is_in_a_file(folder):
    inside = contents(folder / "moco.pth.tar")
    assert inside["layout"] == "MoCo v1/v2" and inside["takes"] == "state_dict > module.encoder_q."
    assert [t["at"] for t in inside["trunks"]] == ["state_dict > module.encoder_q.", "state_dict > module.encoder_k."]
    assert all(t["arch"] == "resnet18" and t["tensors"] == 120 for t in inside["trunks"])
    assert inside["top"]["epoch"] == "200" and inside["runs_code"] == [] and inside["facts"]["channel_order"] == "RGB"
    assert "-> trunk at 'state_dict > module.encoder_q.': resnet18" in as_text(inside)
    json.dumps(inside)


def test_distances_by_hand(folder):
    a, b, c = (take(folder / f"{name}.pth") for name in "abc")
    assert all(g.distance == 0 and g.cosine == pytest.approx(1) and g.mean_drift == 0 for g in compare(a, a))
    rows = {g.stage: g for g in compare(a, b)}
    convolutions = [v for k, v in a.tensors.items() if k.startswith("res3.") and v.ndim == 4]
    total = sum(float(v.double().square().sum()) for v in convolutions) ** 0.5
    doubled = float(a.tensors["res3.0.conv1.weight"].double().norm())
    assert rows["res3"].distance == pytest.approx(doubled / total)
    dot = total**2 + doubled**2
    assert rows["res3"].cosine == pytest.approx(dot / (total * (total**2 + 3 * doubled**2) ** 0.5))
    assert all(rows[s].distance == 0 for s in ("stem", "res2", "res4", "res5"))
    drift = {g.stage: g.mean_drift for g in compare(a, c)}
    expected = float((1 / (a.tensors["stem.conv1.norm.running_var"].double() + 1e-5).sqrt()).mean())
    assert drift["stem"] == pytest.approx(expected) and drift["res2"] == 0
    with pytest.raises(AuditError, match="is a resnet18, .* a resnet34: not comparable"):
        compare(a, take(folder / "r34.pth"))


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_picture(folder, tmp_path, suffix, magic):
    draw(compare(take(folder / "a.pth"), take(folder / "b.pth")), "a", "b", tmp_path / f"gap{suffix}")
    assert (tmp_path / f"gap{suffix}").read_bytes().startswith(magic)


def test_the_tool(folder, tmp_path, capsys):
    main = tool("inspect_checkpoint").main
    assert main([str(folder / "moco.pth.tar"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["takes"] == "state_dict > module.encoder_q."
    words = ["--diff", *[str(folder / "moco.pth.tar")] * 2, "--trunk=encoder_q.", "--trunk=encoder_k."]
    assert main([*words, "--json", "--picture", str(tmp_path / "gap.png")]) == 0
    assert [row["stage"] for row in json.loads(capsys.readouterr().out)] == list(keymap.STAGES)
    assert (tmp_path / "gap.png").stat().st_size > 1000
    torch.save({"a": torch.zeros(2)}, tmp_path / "none.pth")
    assert main([str(tmp_path / "none.pth")]) == 1
    assert "no conversion: no known layout" in capsys.readouterr().out
    (tmp_path / "text.pth").write_text("text")
    assert main([str(tmp_path / "text.pth")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read checkpoint")
