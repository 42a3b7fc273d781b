"""Makes optimizer groups and learning rates as Detectron2 makes them from the same keys."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def learning_rate(
    iteration: int,
    *,
    schedule: str,
    base_lr: float,
    base_lr_end: float,
    max_iter: int,
    steps: Sequence[int],
    gamma: float,
    warmup_iters: int,
    warmup_factor: float,
    warmup_method: str,
) -> float:
    """Returns the learning rate of one iteration (counted from 0).

    "WarmupMultiStepLR" multiplies by gamma at every step; "WarmupCosineLR" follows a half cosine from `base_lr` to
    `base_lr_end`. The warm-up leads linearly from `warmup_factor * base_lr` to the schedule's rate at the warm-up's
    end, or stays at its start ("constant").
    """

    def scheduled(i: float) -> float:
        if schedule == "WarmupCosineLR":
            return base_lr_end + (base_lr - base_lr_end) * 0.5 * (1 + math.cos(math.pi * i / max_iter))
        return base_lr * gamma ** bisect.bisect_right([s for s in steps if s <= max_iter], i)

    warmup = min(warmup_iters, max_iter)
    if iteration >= warmup:
        return scheduled(iteration)
    first = warmup_factor * scheduled(0)
    if warmup_method == "constant":
        return first
    done = iteration / warmup
    return first * (1 - done) + scheduled(warmup) * done


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None,
    weight_decay_bias: float | None,
    bias_lr_factor: float,
) -> list[dict[str, Any]]:
    """Groups trainable parameters by (rate, decay), of which norm layers and biases may have their own.

    A norm layer's bias gets the settings of norms first, then those of biases, in that order, as in Detectron2.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = base_lr, weight_decay
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                decay = weight_decay_norm
            if name == "bias":
                lr = base_lr * bias_lr_factor
                decay = decay if weight_decay_bias is None else weight_decay_bias
            groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay, "lr_scale": lr / base_lr if base_lr else 1.0}
        for (lr, decay), parameters in groups.items()
    ]


def clip_gradients(parameters: Sequence[nn.Parameter], kind: str, value: float, norm_type: float) -> None:
    """Clips every parameter's gradient on its own: each entry to [-value, value], or its norm to `value`."""
    for parameter in parameters:
        if parameter.grad is not None:
            if kind == "value":
                torch.nn.utils.clip_grad_value_(parameter, value)
            else:
                torch.nn.utils.clip_grad_norm_(parameter, value, norm_type)
