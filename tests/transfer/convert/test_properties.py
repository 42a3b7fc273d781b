"""Random prefixes, extra keys and missing tensors: proven equal or refused, never a quiet partial result."""

from __future__ import annotations

import os
import random

import pytest
import torch

from pretrain.runtime.checkpoint import CheckpointError
from tests.transfer.convert.checkpoints import put, sequential, trunk
from transfer.convert import keymap
from transfer.convert.convert import AuditError, take
from transfer.convert.layouts import LayoutError

STATE = {k: v for k, v in trunk(18).items() if not k.startswith("fc.")}
WORDS = ["module", "encoder", "encoder_q", "backbone", "net", "0", "model", "layer1", "conv1", "bn1", "teacher", "res2"]
COUNT = int(os.environ.get("PROPERTY_COUNT", "60"))


def case(rng: random.Random):
    """(content, --trunk or None, whether every tensor of the trunk is there unchanged)."""
    state, whole = dict(STATE), True
    for _ in range(rng.choice([0, 0, 1, 2])):
        key = rng.choice(sorted(state))
        change = rng.choice(["missing", "shape", "renamed"])
        if change == "missing":
            del state[key]
        elif change == "shape":
            state[key] = torch.zeros(*state[key].shape, 2)
        else:
            state[key + "_"] = state.pop(key)
        whole = False
    if rng.random() < 0.2:
        state = sequential(state) if whole else state
    prefix = "".join(rng.choice(WORDS) + "." for _ in range(rng.randint(0, 3)))
    extra = {}
    for _ in range(rng.randint(0, 4)):
        place = "".join(rng.choice(WORDS) + "." for _ in range(rng.randint(0, 3)))
        extra[place + rng.choice(["weight", "bias", "conv1.weight", "fc.weight", "running_mean"])] = torch.zeros(3)
    items = [*put(prefix, state).items(), *((k, v) for k, v in extra.items() if k not in put(prefix, state))]
    rng.shuffle(items)
    content, path = dict(items), []
    for _ in range(rng.randint(0, 2)):
        path.insert(0, rng.choice(["state_dict", "model", "teacher", "weights"]))
        content = {path[0]: content, "epoch": 3}
    named = rng.random() < 0.7
    return content, " > ".join([*path, *([prefix] if prefix else [])]) if named else None, whole


@pytest.mark.parametrize("seed", range(4))
def test_proven_equal_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    taken = refused = 0
    for _ in range(COUNT // 4):
        content, where, whole = case(rng)
        torch.save(content, tmp_path / "x.pth")
        try:
            tensors = take(tmp_path / "x.pth", where or None).tensors
        except (LayoutError, AuditError, CheckpointError) as error:
            refused += 1
            assert len(str(error)) > 30
            continue
        taken += 1
        assert whole
        assert {keymap.trunk_to_torchvision(k) for k in tensors} == set(STATE)
        assert all(torch.equal(v, STATE[keymap.trunk_to_torchvision(k)]) for k, v in tensors.items())
    assert taken and refused


@pytest.mark.parametrize("key", sorted(STATE)[:: 1 if os.environ.get("PROPERTY_COUNT") else 9])
def test_no_tensor_can_be_missing(tmp_path, key):
    torch.save(
        {"state_dict": put("module.encoder_q.", {k: v for k, v in STATE.items() if k != key})}, tmp_path / "x.pth"
    )
    with pytest.raises((LayoutError, AuditError)):
        take(tmp_path / "x.pth")
