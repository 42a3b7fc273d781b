"""Checkpoints as their projects write them, around a small random trunk."""

from __future__ import annotations

import torch
from torchvision.models import resnet


def trunk(depth: int = 18) -> dict[str, torch.Tensor]:
    """A ResNet's state with statistics that differ from initialisation."""
    torch.manual_seed(depth)
    state = getattr(resnet, f"resnet{depth}")().state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.uniform_(-0.5, 0.5)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return state


def moco(state: dict[str, torch.Tensor], prefix: str = "module.") -> dict:
    query = {f"{prefix}encoder_q.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    key = {f"{prefix}encoder_k.{k}": v + 1 for k, v in state.items()}
    dim = state["fc.weight"].shape[1]
    head = {
        f"{prefix}encoder_q.fc.0.weight": torch.zeros(dim, dim),
        f"{prefix}encoder_q.fc.0.bias": torch.zeros(dim),
        f"{prefix}encoder_q.fc.2.weight": torch.zeros(128, dim),
        f"{prefix}encoder_q.fc.2.bias": torch.zeros(128),
    }
    queue = {f"{prefix}queue": torch.zeros(128, 16), f"{prefix}queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet18", "state_dict": {**query, **head, **key, **queue}, "optimizer": {}}
