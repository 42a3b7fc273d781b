"""Measures how far apart two trunks are in each stage: weights by distance and direction, norms by their statistics."""

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
from transfer.convert.write import OutputError

PICTURES = (".png", ".pdf", ".svg")
_STEM = "stem.conv1.weight"


@dataclass(frozen=True)
class Gap:
    """Holds the differences of trunk B from trunk A in one stage.

    A number that cannot be computed is None; the comparison's notes say why.

    Attributes:
        distance: |B - A| / |A| over all convolution weights, Euclidean.
        cosine: cosine of the angle between them, in [-1, 1].
        mean_drift: mean over channels of |difference of running means| / standard deviation in A.
        variance_ratio: geometric mean over channels of the larger over the smaller variance, >= 1.
        scale: mean |difference| of the batch norms' weights.
    """

    stage: str
    distance: float | None
    cosine: float | None
    mean_drift: float | None
    variance_ratio: float | None
    scale: float | None


@dataclass(frozen=True)
class Comparison:
    """Holds the comparison of trunk B with trunk A.

    Attributes:
        a, b: the files.
        stages: one row per stage.
        notes: remarks that a reader of the numbers must know.
    """

    a: str
    b: str
    stages: tuple[Gap, ...]
    notes: tuple[str, ...]


def compare(a: Taken, b: Taken) -> Comparison:
    """Compares two trunks stage by stage.

    If both files state their channel orders and these differ, B's stem is compared in A's order.

    Raises:
        AuditError: the trunks are of different architectures.
    """
    if a.architecture != b.architecture:
        raise AuditError(
            f"'{a.source}' is a {a.architecture.name}, '{b.source}' a {b.architecture.name}: not comparable"
        )
    stem, notes = _stem_for(a, b)
    folded = [letter for letter, taken in (("A", a), ("B", b)) if taken.batch_norm_folded]
    if folded:
        notes.append(f"the batch-norm statistics of {' and '.join(folded)} are folded into scale and shift, so there "
                     "is nothing to compare them with")  # fmt: skip
    notes += [f"every batch norm of {letter} has mean 0 and variance 1: it is untrained, or its statistics are folded "
              "and it does not say so" for letter, taken in (("A", a), ("B", b))
              if letter not in folded and _identity(taken.tensors)]  # fmt: skip
    ours, theirs = a.tensors, {**b.tensors, _STEM: stem}
    gaps = tuple(_gap(stage, _stage(ours, stage), _stage(theirs, stage), len(folded)) for stage in keymap.STAGES)
    for letter, tensors in (("A", ours), ("B", theirs)):
        notes += [f"{letter} has {fault}, so some numbers are missing" for fault in _faults(tensors)]
    return Comparison(str(a.source), str(b.source), gaps, tuple(notes))


def _stem_for(a: Taken, b: Taken) -> tuple[Tensor, list[str]]:
    """Returns B's first convolution with its input channels in A's order, and notes on how the two stems compare."""
    stem, notes = b.tensors[_STEM], []
    orders, stds = ([t.facts[key] for t in (a, b)] for key in ("channel_order", "pixel_std"))
    if None in orders:
        unsaid = " and ".join(letter for letter, order in zip("AB", orders, strict=True) if order is None)
        return stem, [f"{unsaid} does not say its channel order: the stems are compared as they are"]
    if orders[0] != orders[1]:
        stem = stem.flip(1)
        notes.append(f"B's stem takes {orders[1]}, A's {orders[0]}: its input channels were flipped to compare them")
    if None not in stds and sorted(stds[0]) != sorted(stds[1]):
        notes.append(f"A's stem takes pixels divided by {_list(stds[0])}, B's by {_list(stds[1])}: its distance is of "
                     "weights of two scales, so look at its cosine")  # fmt: skip
    return stem, notes


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _identity(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether every batch norm only scales and shifts its input (some files write 1 - eps as the variance)."""
    means = torch.cat([v for k, v in tensors.items() if k.endswith("running_mean")])
    variances = torch.cat([v for k, v in tensors.items() if k.endswith("running_var")])
    return bool((means == 0).all() and ((variances - 1).abs() < 1e-4).all())


def _faults(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns what keeps a trunk from being measured."""
    broken = [k for k, v in tensors.items() if not torch.isfinite(v).all()]
    faults = [f"NaN or infinity in {_few(broken)}"] if broken else []
    empty = [s for s in keymap.STAGES if not any(v.any() for k, v in _stage(tensors, s).items() if _is_convolution(k))]
    faults += [f"convolutions of {', '.join(empty)} that are all zero"] if empty else []
    negative = [k for k, v in tensors.items() if k.endswith("running_var") and (v < 0).any()]
    return faults + ([f"negative variances in {_few(negative)}"] if negative else [])


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_convolution(name: str) -> bool:
    return name.endswith(".weight") and not name.endswith(".norm.weight")


def _stage(tensors: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    return {k: v.double() for k, v in tensors.items() if keymap.stage_of(k) == stage}


def _gap(stage: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], folded: int) -> Gap:
    """Compares one stage of the two trunks.

    Args:
        folded: how many of the two trunks have no statistics. If one has none, the scales cannot be compared, because
            they mean the same only in both or in neither.
    """

    def both(names: list[str]) -> tuple[Tensor, Tensor]:
        return torch.cat([a[k].flatten() for k in names]), torch.cat([b[k].flatten() for k in names])

    wa, wb = both([k for k in a if _is_convolution(k)])
    (ma, mb), (va, vb), (ga, gb) = (
        both([k for k in a if k.endswith(ending)]) for ending in ("running_mean", "running_var", "norm.weight")
    )
    eps = 1e-5  # batch norm's own
    ratio = ((vb + eps) / (va + eps)).log().abs().mean().exp()
    return Gap(
        stage,
        distance=_number((wb - wa).norm() / wa.norm()),
        cosine=_number(torch.dot(wa, wb) / (wa.norm() * wb.norm())),
        mean_drift=None if folded else _number(((mb - ma).abs() / (va + eps).sqrt()).mean()),
        variance_ratio=None if folded else _number(ratio),
        scale=None if folded == 1 else _number((gb - ga).abs().mean()),
    )


def _number(value: Tensor) -> float | None:
    return float(value) if math.isfinite(value) else None


def as_text(comparison: Comparison) -> str:
    lines = [f"A: {comparison.a}", f"B: {comparison.b}", ""]
    lines.append(f"{'stage':<8}{'|B-A|/|A|':>11}{'cosine':>9}{'BN mean drift':>15}{'BN var ratio':>14}{'BN scale':>10}")
    for g in comparison.stages:
        numbers = zip((g.distance, g.cosine, g.mean_drift, g.variance_ratio, g.scale), (11, 9, 15, 14, 10), strict=True)
        row = "".join(f"{'-' if number is None else f'{number:.4f}':>{width}}" for number, width in numbers)
        lines.append(f"{g.stage:<8}{row}")
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])


def check_picture(path: str | os.PathLike[str]) -> str:
    """Returns the format of a picture, given by the extension of its file.

    Raises:
        OutputError: the extension is none of `PICTURES`.
    """
    extension = Path(path).suffix.lower()
    if extension not in PICTURES:
        raise OutputError(f"picture '{path}' must end in one of {', '.join(PICTURES)}")
    return extension[1:]


def draw(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Draws the comparison as bars: three panels over the stages, as PNG, PDF or SVG by the extension.

    Raises:
        OutputError: see `check_picture`.
    """
    from matplotlib.figure import Figure

    kind = check_picture(path)
    gaps = comparison.stages
    panels = (("|B - A| / |A|", [g.distance for g in gaps]),
              ("1 - cosine", [None if g.cosine is None else 1 - g.cosine for g in gaps]),
              ("BN mean drift (standard deviations)", [g.mean_drift for g in gaps]))  # fmt: skip
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (title, heights) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.bar([g.stage for g in gaps], [h or 0 for h in heights], color="#4477aa")
        for i, height in enumerate(heights):
            if height is None:
                axes.text(i, 0, "-", ha="center", va="bottom")
        top = max(h or 0 for h in heights)
        axes.set_ylim(0, 1.05 * top if top > 1e-6 else 1)  # differences of nothing but rounding are none
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"A: {comparison.a}\nB: {comparison.b}", fontsize=9, parse_math=False)
    figure.supxlabel("\n".join(comparison.notes), fontsize=7, parse_math=False)
    with atomic_write(path) as f:
        figure.savefig(f, format=kind, dpi=120)
