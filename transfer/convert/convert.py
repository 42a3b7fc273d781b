"""One conversion from file to file: read, recognise, audit, write. Nothing is written unless everything is proven."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.runtime.checkpoint import sha256
from transfer.convert import audit, layouts
from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.read import read_file, with_identity_statistics
from transfer.convert.write import check_output, write_detectron2

PARITY_LIMIT = 1e-4  # absolute; both sides run the same convolutions, so anything above float noise is a mix-up


@dataclass(frozen=True)
class Conversion:
    """What happened: the table that the tool prints, and the metadata that travels with the weights."""

    source: Path
    output: Path
    layout: str
    renamed: Mapping[str, str]
    dropped: tuple[str, ...]
    coverage: list[audit.Coverage]
    parity: Mapping[str, float]
    notes: tuple[str, ...]
    metadata: Mapping[str, Any]

    def table(self) -> str:
        """The report as text: per stage what arrived and how far the features differ, then what was dropped."""
        lines = [f"{self.source} ({self.layout}) -> {self.output}", ""]
        lines.append(f"{'stage':<8}{'mapped':>8}{'expected':>10}{'missing':>9}   max |difference| of the features")
        for row in self.coverage:
            gap = f"{self.parity[row.stage]:.3g}" if row.stage in self.parity else "-"
            lines.append(f"{row.stage:<8}{row.found:>8}{row.expected:>10}{len(row.missing):>9}   {gap}")
        found, expected = sum(r.found for r in self.coverage), sum(r.expected for r in self.coverage)
        lines.append(f"{'total':<8}{found:>8}{expected:>10}")
        lines.append("")
        lines.append(f"architecture: {self.metadata['arch']}; dropped: {_grouped(self.dropped) or 'nothing'}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _grouped(names: tuple[str, ...]) -> str:
    """`a.b.c.weight, a.b.d.weight, queue` -> `a.b.* (2), queue`."""
    groups: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        groups[".".join(parts[:2]) + ".*" if len(parts) > 2 else name] = (
            groups.get(".".join(parts[:2]) + ".*" if len(parts) > 2 else name, 0) + 1
        )
    return ", ".join(f"{group} ({n})" if n > 1 else group for group, n in groups.items())


def convert(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> Conversion:
    """Converts a pre-trained ResNet to a file that Detectron2 (and the torchvision engine) loads.

    Args:
        source: any checkpoint in `layouts.LAYOUTS`.
        output: `.pkl` (numpy arrays, Detectron2's model-zoo form) or `.pth` (tensors).

    Raises:
        CheckpointError: the source cannot be read safely.
        LayoutError: its layout is unknown.
        AuditError: a tensor is missing or misshapen, values are not finite, or the features differ.
    """
    source, output = Path(source), Path(output)
    check_output(output)
    found = layouts.recognise(read_file(source))
    tensors: dict[str, Tensor] = {k: torch.as_tensor(v) for k, v in found.tensors.items()}
    notes = []
    if found.layout.batch_norm_folded:
        tensors = with_identity_statistics(tensors)
        notes.append("batch-norm statistics are folded into scale and shift: running mean 0 and variance 1 were added")
    architecture = infer_architecture(tensors)
    table = audit.coverage(tensors, architecture)
    audit.check_coverage(table, architecture)
    audit.check_values(tensors)
    facts = found.facts
    if facts is None:
        facts = {"channel_order": None, "pixel_mean": None, "pixel_std": None, "stride_in_1x1": False}
        notes.append(
            "the file does not say its channel order, mean and std; check INPUT.FORMAT and PIXEL_MEAN/STD yourself"
        )
    parity = audit.forward_parity(tensors, architecture, bool(facts["stride_in_1x1"]))
    worst = max(parity, key=lambda stage: parity[stage])
    if not parity[worst] <= PARITY_LIMIT:
        raise AuditError(f"features of {worst} differ by {parity[worst]:.3g} after conversion; nothing was written")
    metadata = {
        "arch": architecture.name,
        "depth": architecture.depth,
        "groups": architecture.groups,
        "width_per_group": architecture.width_per_group,
        "stem_out_channels": architecture.stem_out_channels,
        "res2_out_channels": architecture.res2_out_channels,
        "layout": found.layout.name,
        "source": source.name,
        "source_sha256": sha256(source),
        "tensors": len(tensors),
        **{k: facts[k] for k in ("channel_order", "pixel_mean", "pixel_std", "stride_in_1x1")},
    }
    write_detectron2(tensors, metadata, output)
    return Conversion(
        source, output, found.layout.name, found.renamed, found.dropped, table, parity, tuple(notes), metadata
    )
