"""One conversion from file to file: read, recognise, prove, write. Nothing is written unless everything is proven."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.collector import without_collection
from transfer.convert import audit, layouts
from transfer.convert.architecture import Architecture, AuditError, infer_architecture
from transfer.convert.facts import KEYS, ORIGIN
from transfer.convert.forward import not_taken
from transfer.convert.fragment import fragment
from transfer.convert.read import File, open_file, with_identity_statistics
from transfer.convert.sharded import ShardingError, files, sha256
from transfer.convert.trunks import NAMINGS, without_wrappers
from transfer.convert.values import as_float32, checksum
from transfer.convert.write import OutputError, check_output, check_places, staged, write_text, write_weights

PARITY_LIMIT = 1e-5  # of a stage's largest feature; both sides run the same convolutions, so more is a mix-up
Verify = Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Taken:
    """A trunk that was taken out of a file, complete in names and shapes; its values are not checked yet.

    Attributes:
        tensors: Detectron2-named, float32; mapped from the source where that allows it.
    """

    source: Path
    found: layouts.Found
    tensors: Mapping[str, Tensor] = field(repr=False)
    architecture: Architecture
    coverage: list[audit.Coverage]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    crc: int

    @property
    def batch_norm_folded(self) -> bool:
        return self.found.layout.batch_norm_folded or self.facts.get("batch_norm") == "folded"


@dataclass(frozen=True)
class Conversion:
    """What happened: the report that the tool prints, and the metadata that travels with the weights.

    Attributes:
        parity: see `audit.forward_parity`, per stage.
        detectron2: what its own checkpointer and backbone said; None if they were not asked.
    """

    source: Path
    output: Path
    layout: str
    trunk: str
    others: tuple[str, ...]
    renamed: Mapping[str, str]
    dropped: tuple[str, ...]
    coverage: list[audit.Coverage]
    parity: Mapping[str, float]
    notes: tuple[str, ...]
    metadata: Mapping[str, Any]
    detectron2: Mapping[str, Any] | None = None


@without_collection()
def take(source: str | os.PathLike[str] | File, trunk: str | None = None, trust: bool = False) -> Taken:
    """Reads a file, unless that was done, and takes its trunk.

    Raises:
        CheckpointError: the source cannot be read safely, or its bytes are not those that were written.
        LayoutError: its layout is unknown or ambiguous.
        AuditError: a tensor is missing, misshapen, or not made of numbers.
    """
    file = source if isinstance(source, File) else open_file(source, trust)
    found = layouts.recognise(file.content, trunk, detectors=True)
    known = file.check_intact(found.tensors.items())
    tensors, notes = as_float32(found.tensors)
    tensors = _without_zero_bias(tensors)
    if found.layout.batch_norm_folded:
        count, tensors = len(tensors), with_identity_statistics(tensors)
        added = ": running mean 0 and variance 1 were added" if len(tensors) > count else ""
        notes.append(f"batch-norm statistics are folded into scale and shift{added}")
    architecture = infer_architecture(tensors)
    table = audit.coverage(tensors, architecture)
    audit.check_coverage(table, architecture)
    facts = dict.fromkeys(KEYS) | dict(layouts.facts_of(found, architecture) or {})
    if facts["channel_order"] is None:
        notes.append(
            "the file does not say its channel order, mean and std; check INPUT.FORMAT and PIXEL_MEAN/STD yourself"
        )
    if facts["stride_in_1x1"] is None and architecture.depth >= 50:
        notes.append(
            "the file does not say whether its stride is in the 1x1 convolution (MSRA) or in the 3x3; the proof takes "
            "the 3x3 and cannot tell. Check MODEL.RESNETS.STRIDE_IN_1X1 yourself"
        )
    crc, written = checksum(tensors, known), (found.facts or {}).get("tensors_crc32")
    if written is not None and written != crc:
        raise CheckpointError(
            f"cannot read checkpoint '{file.path}': its tensors are not those that were written; copy it again, or "
            "convert its source again"
        )
    return Taken(file.path, found, tensors, architecture, table, facts, tuple(notes), crc)


def _without_zero_bias(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's stem, and what was converted from it elsewhere, has a bias of zeros, since its norm has one already."""
    return {k: v for k, v in tensors.items() if k != "stem.conv1.bias" or bool((v != 0).any())}


def metadata_of(taken: Taken, source_sha256: str, names: str) -> dict[str, Any]:
    """What travels with the weights: what they are, where they came from, how images must be given to them.

    `origin` is there for a file that this converter wrote itself: what that one was made from.
    """
    found = taken.found
    first = taken.facts.get("origin") or {k: taken.facts[k] for k in ORIGIN if k in taken.facts}
    return {
        **taken.architecture.facts(),
        "batch_norm": "folded" if taken.batch_norm_folded else "statistics",
        "layout": found.layout.name,
        "trunk": found.trunk,
        "names": names,
        "source": taken.source.name,
        "source_sha256": source_sha256,
        "tensors": len(taken.tensors),
        "tensors_crc32": taken.crc,
        **{k: taken.facts[k] for k in KEYS},
        **({"origin": first} if first else {}),
    }


def prove(taken: Taken) -> tuple[dict[str, float], list[str]]:
    """(largest difference of the features per stage, notes on the values).

    Raises:
        AuditError: values are not finite, a variance is negative, or the features differ.
    """
    notes = audit.check_values(taken.tensors, taken.batch_norm_folded)
    naming = taken.found.layout.naming
    parity = audit.forward_parity(
        taken.tensors, taken.architecture, bool(taken.facts["stride_in_1x1"]), _by_source_names(taken), naming
    )
    for stage, difference in parity.items():
        if not difference <= PARITY_LIMIT:
            raise AuditError(f"features of {stage} differ by {difference:.3g} of their size; nothing was written")
    return parity, notes


def _by_source_names(taken: Taken) -> dict[str, Tensor]:
    """The tensors by their names within the source's trunk, without the place of the trunk and without wrappers."""
    names = {without_wrappers(old): new for old, new in taken.found.renamed.items() if new in taken.tensors}
    stem = NAMINGS[taken.found.layout.naming].stem
    prefix = min((old for old in names if old.endswith(stem)), key=len, default="").removesuffix(stem)
    places = (prefix, prefix.removesuffix("backbone.") + "roi_heads.")
    out = {}
    for old, new in names.items():
        place = next((p for p in places if old.startswith(p)), "")
        out[old.removeprefix(place)] = taken.tensors[new]
    return out


@without_collection()
def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    trunk: str | None = None,
    names: str | None = None,
    trust: bool = False,
    verify: Verify | None = None,
    emit_config: str | os.PathLike[str] | None = None,
) -> Conversion:
    """Converts a pre-trained ResNet to a file that Detectron2 (and the torchvision engine) loads.

    Args:
        source: any checkpoint in `layouts.LAYOUTS`.
        output: `.pkl` (numpy arrays, Detectron2's model-zoo form), `.pth` (tensors) or `.safetensors`.
        trunk: which trunk, where the file holds several; see `layouts.recognise`.
        names: "detectron2" or "torchvision"; see `write.check_output`.
        trust: unpickle whatever the source asks for; see `read.runs`.
        verify: called with the written file and its metadata before the file gets its name; raises AuditError.
        emit_config: also write the config fragment that fits, there.

    Raises:
        CheckpointError: the source cannot be read safely.
        LayoutError: its layout is unknown or ambiguous.
        AuditError: a tensor is missing or misshapen, values are not finite, or the features differ.
        OutputError: the output cannot be written, would overwrite the source, or nobody would read it.
    """
    output = Path(output)
    names = check_output(output, names)
    sidecar = output.with_name(output.name + ".json")
    outputs = [output, sidecar] if emit_config is None else [output, sidecar, Path(emit_config)]
    with suppress(ShardingError, OSError):  # taking it says what is wrong, too
        check_places([*files(Path(source)), Path(f"{source}.json")], outputs)
    loadable = names == "detectron2" and output.suffix != ".safetensors"
    if emit_config is not None and not loadable:
        raise OutputError(f"--emit-config: no detector loads '{output.name}' with {names}'s names; write .pkl or .pth "
                          "with Detectron2's")  # fmt: skip
    with staged(*outputs) as (path, beside, *config):
        taken = take(source, trunk, trust)
        if names == "torchvision":
            _check_torchvision(taken)
        with ThreadPoolExecutor(1) as pool:
            digest = pool.submit(sha256, taken.source)
            parity, notes = prove(taken)
            metadata = metadata_of(taken, digest.result(), names)
        write_weights(taken.tensors, metadata, path, names)
        write_text(json.dumps(metadata, indent=1, sort_keys=True, allow_nan=False) + "\n", beside)
        for place in config:
            write_text(fragment(metadata, str(output)), place)
        _read_back(path, taken, names)
        said = verify(path, metadata) if verify is not None and loadable else None
    found = taken.found
    return Conversion(taken.source, output, found.layout.name, found.trunk, found.others, found.renamed, found.dropped,
                      taken.coverage, parity, (*taken.notes, *notes), metadata, said)  # fmt: skip


def _check_torchvision(taken: Taken) -> None:
    """Raises OutputError if torchvision's own network would load the weights and compute something else."""
    if taken.facts["stride_in_1x1"] and taken.architecture.depth >= 50:
        raise OutputError(
            f"torchvision's {taken.architecture.name} has its stride in the 3x3 convolution, these weights in the 1x1: "
            "it would load them and compute other features; write Detectron2's names, to .pkl or .pth"
        )


def _read_back(path: Path, taken: Taken, names: str) -> None:
    """Raises AuditError unless the file that was written holds the same bits and, for torchvision, loads there."""
    again = take(path)
    if again.architecture != taken.architecture or again.crc != taken.crc:
        raise AuditError(f"'{path.name}' reads back with other values than were written; nothing was kept")
    if names == "torchvision":
        state = open_file(path).content
        with torch.device("meta"):
            model = taken.architecture.build()
        if left := not_taken(model.load_state_dict(state, strict=False, assign=True)):
            raise AuditError(f"torchvision does not load '{path.name}' whole: {left[:3]}")
