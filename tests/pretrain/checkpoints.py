"""Checkpoints for tests of evaluation: a ResNet-18 as if it had been trained, in every layout that is read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from pretrain.runtime import checkpoint


def trained_resnet18() -> nn.Module:
    """Random weights, and BN statistics and scales that are not those of a new network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = resnet18(num_classes=16)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
                nn.init.uniform_(module.weight, 0.8, 1.2)
                module.num_batches_tracked.fill_(7)
    return network.eval()


def trunk_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}


def write(path: Path, layout: str = "module.encoder_q.", arch: str | None = "resnet18") -> Path:
    """`layout` is what stands before the names; "" is torchvision's plain state dict."""
    state = {layout + name: value for name, value in trained_resnet18().state_dict().items()}
    if layout.endswith("encoder_q."):
        state |= {name.replace("encoder_q", "encoder_k"): torch.zeros_like(value) for name, value in state.items()}
        state |= {layout.replace("encoder_q.", "queue"): torch.zeros(16, 32)}
    content = {"epoch": 1, "arch": arch, "state_dict": state, "optimizer": {}} if layout else state
    checkpoint.save(content, path)
    return path
