"""Shows what is in a checkpoint, and whether it can be converted, without converting it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert import audit, variants
from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.convert import take
from transfer.convert.layouts import Found, LayoutError, facts_of, recognise
from transfer.convert.read import File, open_file, runs
from transfer.convert.trunks import Trunk, find_trunks, is_tensor

_SHOWN = 12


def contents(path: str | os.PathLike[str], trunk: str | None = None, trust: bool = False) -> dict[str, Any]:
    """Returns what a file holds as JSON values: container, top-level keys, trunks, and which one a conversion takes.

    `why_not` is None if that trunk passes everything that a conversion checks before it computes features.

    Args:
        trunk: see `layouts.recognise`.

    Raises:
        CheckpointError: the file cannot be read; see `read.open_file`.
    """
    file = open_file(path, trust)
    why_not, notes = _verdict(file, trunk)
    return _described(file, trunk) | {"why_not": why_not, "notes": notes}


def _described(file: File, trunk: str | None) -> dict[str, Any]:
    found: Found | None = None
    with suppress(LayoutError):  # the verdict repeats it
        found = recognise(file.content, trunk, detectors=True)
    facts = _facts(found) if found else None
    return {
        "file": str(file.path),
        "bytes": file.size,
        "container": file.kind,
        "trust_calls": list(runs(file.path)),
        "top": _top(file.content),
        "trunks": [_trunk(t) for t in find_trunks(file.content)],
        "layout": found.layout.name if found else None,
        "takes": found.trunk if found else None,
        "facts": None if facts is None else {str(k): v for k, v in facts.items() if _plain(v)},
    }


def _verdict(file: File, trunk: str | None) -> tuple[str | None, list[str]]:
    """Returns (why a conversion would refuse the file, what it would note)."""
    try:
        taken = take(file, trunk)
        return None, [*taken.notes, *audit.check_values(taken.tensors, taken.batch_norm_folded)]
    except (CheckpointError, LayoutError, AuditError) as error:
        return str(error).replace("; nothing was written", ""), []


def _facts(found: Found) -> Mapping[str, Any] | None:
    try:
        return facts_of(found, infer_architecture(found.tensors))
    except AuditError:
        return found.facts


def _plain(value: Any) -> bool:
    """Returns whether JSON can hold the value."""
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, (str, int)) or isinstance(value, float) and math.isfinite(value)


def _top(content: Any) -> dict[str, str]:
    """Returns top-level key -> what it holds, for the first few keys."""
    if not isinstance(content, Mapping):
        return {"": type(content).__name__}
    out = {str(k)[:80]: _words(v) for k, v in list(content.items())[:_SHOWN]}
    return out | ({"...": f"{len(content) - _SHOWN} more"} if len(content) > _SHOWN else {})


def _words(value: Any) -> str:
    if is_tensor(value):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        tensors = sum(is_tensor(v) for v in value.values())
        return f"{len(value)} entries, {tensors} of them tensors"
    return repr(value)[:60] if isinstance(value, (str, int, float, bool)) else type(value).__name__


def _trunk(trunk: Trunk) -> dict[str, Any]:
    tensors = trunk.tensors
    try:
        arch = infer_architecture(tensors).name
    except AuditError as error:
        arch = f"unknown: {error}"
    return {
        "at": trunk.raw,
        "names": trunk.naming,
        "tensors": len(tensors),
        "arch": arch,
        "dtypes": dict(Counter(str(v.dtype).removeprefix("torch.") for v in tensors.values())),
        "unfit": variants.by_stem(tensors),
    }


def as_text(inside: Mapping[str, Any]) -> str:
    """Formats what `contents` returns for people."""
    lines = [f"{inside['file']}: {inside['container']}, {inside['bytes'] / 1e6:.1f} MB"]
    if inside["trust_calls"]:
        lines.append(f"with --trust it may call: {', '.join(inside['trust_calls'])}")
    width = max(map(len, inside["top"]), default=0)
    lines += [f"  {key:<{width}}  {value}" for key, value in inside["top"].items()]
    for trunk in inside["trunks"]:
        mark = "->" if trunk["at"] == inside["takes"] else "  "
        dtypes = ", ".join(f"{n} {dtype}" for dtype, n in trunk["dtypes"].items())
        unfit = f"; {trunk['unfit']}" if trunk["unfit"] else ""
        lines.append(f"{mark} trunk at '{trunk['at']}': {trunk['arch']}, {trunk['names']} names, {dtypes}{unfit}")
    if inside["layout"]:
        lines.append(f"layout: {inside['layout']}")
    if inside["facts"]:
        lines.append("images: " + _images(inside["facts"]))
    if inside["why_not"]:
        return "\n".join([*lines, f"no conversion: {inside['why_not']}"])
    notes = [f"\n  {note}" for note in inside["notes"]]
    lines.append(f"a conversion takes '{inside['takes'] or 'the top'}'{' and notes:' if notes else ''}{''.join(notes)}")
    return "\n".join(lines)


def _images(facts: Mapping[str, Any]) -> str:
    words = [f"{k} {facts.get(k) or 'not stated'}" for k in ("channel_order", "pixel_mean", "pixel_std")]
    in_1x1 = facts.get("stride_in_1x1")
    return ", ".join([*words, f"stride {'not stated' if in_1x1 is None else 'in 1x1' if in_1x1 else 'in 3x3'}"])
