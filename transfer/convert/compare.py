"""How far apart two trunks are, per stage: weights by distance and direction, batch norms by their statistics."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.runtime.checkpoint import atomic_write
from transfer.convert import keymap
from transfer.convert.architecture import AuditError
from transfer.convert.convert import Taken


@dataclass(frozen=True)
class Gap:
    """Of one stage, B against A.

    Attributes:
        distance: |B - A| / |A| over all convolution weights, Euclidean.
        cosine: of the angle between them, in [-1, 1].
        mean_drift: mean over channels of |difference of running means| / standard deviation in A.
        variance_ratio: geometric mean over channels of the larger over the smaller variance, >= 1.
        scale: mean |difference| of the batch norms' weights.
    """

    stage: str
    distance: float
    cosine: float
    mean_drift: float
    variance_ratio: float
    scale: float


def compare(a: Taken, b: Taken) -> list[Gap]:
    """One row per stage.

    Raises:
        AuditError: the trunks are of different architectures.
    """
    if a.architecture != b.architecture:
        raise AuditError(
            f"'{a.source}' is a {a.architecture.name}, '{b.source}' a {b.architecture.name}: not comparable"
        )
    return [_gap(stage, _stage(a.tensors, stage), _stage(b.tensors, stage)) for stage in keymap.STAGES]


def _stage(tensors: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    return {k: v.double() for k, v in tensors.items() if keymap.stage_of(k) == stage}


def _gap(stage: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Gap:
    def both(*endings: str) -> tuple[Tensor, Tensor]:
        names = [k for k in a if k.endswith(endings)]
        return torch.cat([a[k].flatten() for k in names]), torch.cat([b[k].flatten() for k in names])

    convolutions = tuple(k for k in a if k.endswith(".weight") and not k.endswith(".norm.weight"))
    wa, wb = both(*convolutions)
    (ma, mb), (va, vb), (ga, gb) = both("running_mean"), both("running_var"), both("norm.weight")
    eps = 1e-5  # batch norm's own
    return Gap(
        stage,
        distance=float((wb - wa).norm() / wa.norm()),
        cosine=float(torch.dot(wa, wb) / (wa.norm() * wb.norm())),
        mean_drift=float(((mb - ma).abs() / (va + eps).sqrt()).mean()),
        variance_ratio=math.exp(float(((vb + eps) / (va + eps)).log().abs().mean())),
        scale=float((gb - ga).abs().mean()),
    )


def as_text(gaps: Sequence[Gap], a: str, b: str) -> str:
    lines = [f"A: {a}", f"B: {b}", ""]
    lines.append(f"{'stage':<8}{'|B-A|/|A|':>11}{'cosine':>9}{'BN mean drift':>15}{'BN var ratio':>14}{'BN scale':>10}")
    for g in gaps:
        lines.append(
            f"{g.stage:<8}{g.distance:>11.4f}{g.cosine:>9.4f}{g.mean_drift:>15.4f}{g.variance_ratio:>14.4f}"
            f"{g.scale:>10.4f}"
        )
    return "\n".join(lines)


def draw(gaps: Sequence[Gap], a: str, b: str, path: str | os.PathLike[str]) -> None:
    """The same as bars: three panels over the stages, as PNG, PDF or SVG by the extension."""
    from matplotlib.figure import Figure

    panels = (("|B - A| / |A|", [g.distance for g in gaps]), ("1 - cosine", [1 - g.cosine for g in gaps]),
              ("BN mean drift (standard deviations)", [g.mean_drift for g in gaps]))  # fmt: skip
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (title, heights) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.bar([g.stage for g in gaps], heights, color="#4477aa")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"A: {a}\nB: {b}", fontsize=9)
    kind = Path(path).suffix.lstrip(".") or "png"
    with atomic_write(path) as f:
        figure.savefig(f, format=kind, dpi=120)
