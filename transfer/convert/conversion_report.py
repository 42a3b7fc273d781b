"""Describes a conversion in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transfer.convert.convert import Conversion


def table(done: Conversion) -> str:
    """Lists which tensors arrived per stage and how far features differ, then what was chosen, dropped and noted."""
    taken = done.layout + (f", trunk '{done.trunk}'" if done.trunk else "")
    lines = [f"{done.source} ({taken}) -> {done.output}", ""]
    lines.append(f"{'stage':<8}{'mapped':>8}{'expected':>10}{'missing':>9}   difference of the features, relative")
    for row in done.coverage:
        gap = f"{done.parity[row.stage]:.3g}" if row.stage in done.parity else "-"
        lines.append(f"{row.stage:<8}{row.found:>8}{row.expected:>10}{len(row.missing):>9}   {gap}")
    found, expected = sum(r.found for r in done.coverage), sum(r.expected for r in done.coverage)
    lines += [f"{'total':<8}{found:>8}{expected:>10}", ""]
    lines.append(f"architecture: {done.metadata['arch']}; dropped: {grouped(done.dropped) or 'nothing'}")
    lines += [f"other trunk: {other}" for other in done.others]
    if done.detectron2 is not None:
        lines.append(f"Detectron2: {'; '.join(f'{key} {value}' for key, value in done.detectron2.items())}")
    lines += [note if note.startswith("warning") else f"note: {note}" for note in done.notes]
    return "\n".join(lines)


def as_json(done: Conversion) -> dict[str, Any]:
    """Returns a conversion as JSON values, with `proven` true.

    Of a refusal, the tool prints `{"proven": false, "error"}` instead.
    """
    return {
        "proven": True,
        "source": str(done.source),
        "output": str(done.output),
        "layout": done.layout,
        "trunk": done.trunk,
        "other_trunks": list(done.others),
        "stages": [
            {"stage": r.stage, "mapped": r.found, "expected": r.expected, "max_difference": done.parity.get(r.stage)}
            for r in done.coverage
        ],
        "dropped": list(done.dropped),
        "detectron2": None if done.detectron2 is None else dict(done.detectron2),
        "notes": list(done.notes),
        "metadata": dict(done.metadata),
    }


def grouped(names: Iterable[str]) -> str:
    """Returns names grouped by their beginnings: `a.b.c.weight, a.b.d.weight, queue` -> `a.b.* (2), queue`."""
    groups: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        group = ".".join(parts[:2]) + ".*" if len(parts) > 2 else name
        groups[group] = groups.get(group, 0) + 1
    return ", ".join(f"{group} ({n})" if n > 1 else group for group, n in groups.items())
