"""Provides kinds of batch norm by Detectron2's names; state dicts are equal, so a checkpoint fits every kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fvcore.nn.distributed import differentiable_all_reduce
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from pretrain.runtime import dist
from pretrain.runtime.config import ConfigError


class NaiveSyncBatchNorm2d(nn.BatchNorm2d):
    """Normalises over all processes: averages each process's E[x] and E[x^2] with equal weights.

    That is Detectron2's "naiveSyncBN": exact for equal (N, H, W) on every process; with unequal ones every process
    still counts the same. It runs on CPU and GPU. In evaluation, and with one process, it is plain batch norm.

    Shapes: (N, C, H, W) -> (N, C, H, W).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or dist.world_size() == 1:
            return super().forward(x)
        if x.shape[0] == 0:
            raise ValueError("naiveSyncBN needs at least one sample on every process")
        values = x.float()
        moments = torch.cat([values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))])  # (2C,)
        mean, square = (differentiable_all_reduce(moments) / dist.world_size()).chunk(2)
        var = square - mean * mean
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var - self.running_var)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Normalises over all processes as if they were one, so that every value counts the same: "SyncBN" on the CPU.

    That is what torch's SyncBatchNorm computes on GPUs, which does not train on the CPU. A process may even have no
    sample at all. In evaluation, and with one process, it is plain batch norm.

    Shapes: (N, C, H, W) -> (N, C, H, W).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or dist.world_size() == 1:
            return super().forward(x)
        values = x.float()
        count = values.new_full((1,), x.numel() / x.shape[1])
        sums = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)), count])  # (2C + 1,)
        total = differentiable_all_reduce(sums)
        n = total[-1]
        mean, square = (total[:-1] / n).chunk(2)
        var = square - mean * mean
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var * n / (n - 1) - self.running_var)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def norm_layer(kind: str, device: str) -> Callable[[int], nn.Module]:
    """Returns the function that makes a norm of so many channels, for "BN", "SyncBN", "naiveSyncBN" or "FrozenBN".

    Raises:
        ConfigError: the kind is unknown.
    """
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm if device.startswith("cuda") else SyncBatchNorm2d,
        "naiveSyncBN": NaiveSyncBatchNorm2d,
        "FrozenBN": FrozenBatchNorm2d,
    }
    if kind not in kinds:
        raise ConfigError(f"unknown norm '{kind}'; choose one of {', '.join(kinds)}")
    return kinds[kind]


def freeze(module: nn.Module) -> nn.Module:
    """Stops all learning in `module`: no gradients, and every batch norm becomes a FrozenBatchNorm2d."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return _frozen(module)


def _frozen(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        state = {k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"}
        frozen.load_state_dict(state)
        return frozen
    for name, child in module.named_children():
        module.add_module(name, _frozen(child))
    return module
