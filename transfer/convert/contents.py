"""What is in a checkpoint, without converting it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.convert import variants
from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.layouts import LayoutError, recognise, stated_facts
from transfer.convert.read import open_file, runs
from transfer.convert.trunks import Trunk, find_trunks, is_tensor

_SHOWN = 12


def contents(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """What a file holds, as JSON values: container, top-level keys, trunks, and which trunk a conversion would take.

    Raises:
        CheckpointError: it cannot be read; see `read.open_file`.
    """
    path = Path(path)
    file = open_file(path, trust)
    content = file.content
    trunks = find_trunks(content)
    try:
        found = recognise(content, detectors=True)
        taken, layout, why_not = found.trunk, found.layout.name, None
        facts = found.facts
    except LayoutError as error:
        taken, layout, why_not, facts = None, None, str(error), stated_facts(content)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "container": file.kind,
        "runs_code": list(runs(path)),
        "top": _top(content),
        "trunks": [_trunk(t) for t in trunks],
        "layout": layout,
        "takes": taken,
        "why_not": why_not,
        "facts": None if facts is None else dict(facts),
    }


def _top(content: Any) -> dict[str, str]:
    """Top-level key -> what is there, the first few."""
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
    """The same for people."""
    lines = [f"{inside['file']}: {inside['container']}, {inside['bytes'] / 1e6:.1f} MB"]
    if inside["runs_code"]:
        lines.append(f"runs code when unpickled: {', '.join(inside['runs_code'])}")
    width = max(map(len, inside["top"]), default=0)
    lines += [f"  {key:<{width}}  {value}" for key, value in inside["top"].items()]
    for trunk in inside["trunks"]:
        mark = "->" if trunk["at"] == inside["takes"] else "  "
        dtypes = ", ".join(f"{n} {dtype}" for dtype, n in trunk["dtypes"].items())
        unfit = f"; {trunk['unfit']}" if trunk["unfit"] else ""
        lines.append(f"{mark} trunk at '{trunk['at']}': {trunk['arch']}, {trunk['names']} names, {dtypes}{unfit}")
    if inside["layout"]:
        lines.append(f"layout: {inside['layout']}; a conversion takes '{inside['takes'] or 'the top'}'")
    else:
        lines.append(f"no conversion: {inside['why_not']}")
    if inside["facts"]:
        facts = ", ".join(f"{k} {inside['facts'][k]}" for k in ("channel_order", "pixel_mean", "pixel_std"))
        lines.append(f"images: {facts}, stride in {'1x1' if inside['facts']['stride_in_1x1'] else '3x3'}")
    return "\n".join(lines)
