"""Proves that a conversion is right: every tensor has arrived, and the trunk still computes the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from transfer.convert import keymap
from transfer.convert.architecture import Architecture, AuditError
from transfer.convert.forward import detectron2_forward, relative_differences, source_forward


@dataclass(frozen=True)
class Coverage:
    """Holds how many of a stage's tensors have arrived."""

    stage: str
    found: int
    expected: int
    missing: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    unexpected: tuple[str, ...] = ()


def coverage(tensors: Mapping[str, Tensor], architecture: Architecture) -> list[Coverage]:
    """Compares, per stage, the tensors that arrived with those of the architecture.

    `num_batches_tracked` counts only if the file has any.
    """
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
    """Raises AuditError unless every tensor has arrived with its shape, and none beyond the architecture's."""
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
    """Returns in words, for the report, what is unusual about a trunk's values.

    Args:
        batch_norm_folded: whether the statistics are mean 0 and variance 1 by construction.

    Raises:
        AuditError: there is NaN, infinity, a negative batch-norm variance, or a norm whose variances are all zero.
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
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    stride_in_1x1: bool,
    source: Mapping[str, Tensor],
    naming: str,
    size: int = 64,
) -> dict[str, float]:
    """Computes res2..res5 of an input in two ways; returns, per stage, the largest difference over the largest feature.

    One computation uses the source's names, the other Detectron2's (see `forward`), so that a rule that confuses two
    tensors is detected.

    Args:
        source: the same tensors by their names within the source's trunk, in its `naming` (a key of `trunks.NAMINGS`).

    Raises:
        AuditError: a feature is not a finite number, or the source's names are not those of a network.
    """
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    theirs = source_forward(source, naming, architecture, x, stride_in_1x1)
    ours = detectron2_forward(tensors, x, stride_in_1x1)
    differences = relative_differences(theirs, ours)
    if bad := [stage for stage, difference in differences.items() if not math.isfinite(difference)]:
        raise AuditError(f"the features of {', '.join(bad)} are not finite: its weights are too large to compute with")
    return differences
