"""The proof that a conversion is right: every tensor arrived, and the trunk still computes the same.

Shape shorthand: N images; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.resnet import ResNet

from transfer.convert import keymap
from transfer.convert.architecture import Architecture, AuditError


@dataclass(frozen=True)
class Coverage:
    """How many of a stage's tensors arrived."""

    stage: str
    found: int
    expected: int
    missing: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    unexpected: tuple[str, ...] = ()


def coverage(tensors: Mapping[str, Tensor], architecture: Architecture) -> list[Coverage]:
    """Per stage, arrived tensors against the architecture's; `num_batches_tracked` counts only if the file has any."""
    shapes = architecture.shapes()
    if not any(k.endswith("num_batches_tracked") for k in tensors):
        shapes = {k: s for k, s in shapes.items() if not k.endswith("num_batches_tracked")}
    table = []
    for stage in keymap.STAGES:
        names = [k for k in shapes if keymap.stage_of(k) == stage]
        missing = tuple(k for k in names if k not in tensors)
        wrong = tuple(
            f"{k} is {tuple(tensors[k].shape)}, not {shapes[k]}"
            for k in names
            if k in tensors and tuple(tensors[k].shape) != shapes[k]
        )
        more = tuple(k for k in tensors if keymap.stage_of(k) == stage and k not in shapes)
        table.append(Coverage(stage, len(names) - len(missing) - len(wrong), len(names), missing, wrong, more))
    return table


def check_coverage(table: list[Coverage], architecture: Architecture) -> None:
    """Raises AuditError unless every tensor arrived with its shape, and none that the architecture has not."""
    lost = [f"{name} is missing" for row in table for name in row.missing]
    lost += [text for row in table for text in row.wrong_shape]
    more = [f"{name} is more than it has" for row in table for name in row.unexpected]
    if lost or more:
        total, faults = sum(row.expected for row in table), lost + more
        shown = "\n  ".join(faults[:6]) + (f"\n  ... and {len(faults) - 6} more" if len(faults) > 6 else "")
        only = f"only {total - len(lost)}" if lost else f"{len(more)} more than the {total}"
        of = f" of the {total}" if lost else ""
        raise AuditError(f"{only}{of} tensors of a {architecture.name} trunk arrived; nothing was written:\n  {shown}")


def check_values(tensors: Mapping[str, Tensor], batch_norm_folded: bool = False) -> list[str]:
    """What is odd about a trunk's values, in words for the report.

    Args:
        batch_norm_folded: the statistics are mean 0 and variance 1 by construction.

    Raises:
        AuditError: NaN, infinity, a negative batch-norm variance, or a norm whose variances are all zero.
    """
    dead = 0
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise AuditError(f"{key} holds NaN or infinity: the training that wrote it diverged; nothing was written")
        if key.endswith("running_var"):
            if bool((value < 0).any()):
                raise AuditError(f"{key} is negative somewhere: not the variance of anything; nothing was written")
            if bool((value == 0).all()):
                raise AuditError(f"{key} is zero everywhere: its layer never saw an image; nothing was written")
            dead += int((value == 0).sum())
    notes = [f"{dead} channels have a batch-norm variance of zero: they are dead"] if dead else []
    if not batch_norm_folded and (untrained := _untrained(tensors)):
        notes.append(f"warning: {untrained}, so this trunk looks untrained")
    return notes


def _untrained(tensors: Mapping[str, Tensor]) -> str | None:
    norms = [k.removesuffix("running_mean") for k in tensors if k.endswith("running_mean")]
    fresh = [
        norm
        for norm in norms
        if bool((tensors[norm + "running_mean"] == 0).all()) and bool((tensors[norm + "running_var"] == 1).all())
    ]
    if not fresh:
        return None
    which = "every batch norm has" if len(fresh) == len(norms) else f"{len(fresh)} of {len(norms)} batch norms have"
    return f"{which} the statistics of initialisation (mean 0, variance 1)"


def forward_parity(
    tensors: Mapping[str, Tensor], architecture: Architecture, stride_in_1x1: bool, size: int = 64
) -> dict[str, float]:
    """Largest absolute difference per stage between two independent computations of res2..res5 on one random input.

    One is torchvision's ResNet with the tensors under their source names, the other runs straight off the
    Detectron2-named tensors.
    """
    model = torchvision_trunk(tensors, architecture, stride_in_1x1)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = detectron2_forward(tensors, x, stride_in_1x1)
        y = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        differences = {}
        for stage in ("res2", "res3", "res4", "res5"):
            y = getattr(model, f"layer{int(stage[3]) - 1}")(y)
            differences[stage] = float((y - theirs[stage]).abs().max())
    return differences


def torchvision_trunk(tensors: Mapping[str, Tensor], architecture: Architecture, stride_in_1x1: bool) -> ResNet:
    """torchvision's network with the tensors of a Detectron2-named trunk, in evaluation mode; its `fc` is random."""
    model = architecture.build(stride_in_1x1=stride_in_1x1).eval()
    state = {keymap.trunk_to_torchvision(k): v for k, v in tensors.items()}
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in state.items() if k is not None}})
    return model


def detectron2_forward(tensors: Mapping[str, Tensor], x: Tensor, stride_in_1x1: bool) -> dict[str, Tensor]:
    """Features of a Detectron2-named trunk in evaluation mode. (N, 3, H, W) -> {"res2": ..., ..., "res5": ...}."""

    def conv(name: str, y: Tensor, stride: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        groups = y.shape[1] // weight.shape[1]
        y = F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        norm = f"{name}.norm."
        return F.batch_norm(
            y,
            tensors[norm + "running_mean"],
            tensors[norm + "running_var"],
            tensors[norm + "weight"],
            tensors[norm + "bias"],
        )

    y = F.max_pool2d(F.relu(conv("stem.conv1", x, stride=2)), 3, stride=2, padding=1)
    features = {}
    for stage in (2, 3, 4, 5):
        block = 0
        while f"res{stage}.{block}.conv1.weight" in tensors:
            name, stride = f"res{stage}.{block}", 2 if stage > 2 and block == 0 else 1
            bottleneck = f"{name}.conv3.weight" in tensors
            first = stride if stride_in_1x1 or not bottleneck else 1
            z = F.relu(conv(f"{name}.conv1", y, first))
            z = conv(f"{name}.conv2", z, stride // first)
            if bottleneck:
                z = conv(f"{name}.conv3", F.relu(z))
            shortcut = conv(f"{name}.shortcut", y, stride) if f"{name}.shortcut.weight" in tensors else y
            y = F.relu(z + shortcut)
            block += 1
        features[f"res{stage}"] = y
    return features
