"""Converts one checkpoint file to another: reads it, recognises its layout, proves the result equal, writes it.

No output file gets its name unless the whole conversion has been proven.
"""

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
    """Holds a trunk taken from a file. Its names and shapes are complete; its values have not been checked yet.

    Attributes:
        source: the file that was read.
        found: the layout of the file, and where in it the trunk stands.
        tensors: float32, by Detectron2's names; memory-mapped from the source where its format allows that.
        architecture: depth and widths of the ResNet, inferred from the shapes.
        coverage: how many tensors of each stage were expected and how many were found.
        facts: how images must be given to the weights (`facts.KEYS`), as far as the file or its layout tells.
        notes: remarks for the user.
        crc: a checksum over all tensors.
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
        """Returns whether the statistics of batch norm are folded into its scale and shift."""
        return self.found.layout.batch_norm_folded or self.facts.get("batch_norm") == "folded"


@dataclass(frozen=True)
class Conversion:
    """Holds the outcome of a conversion: the report that the tool prints, and the metadata stored with the weights.

    Attributes:
        source, output: the two files.
        layout, trunk: the layout that was recognised, and which of its trunks was taken.
        others: the other trunks in the file.
        renamed: the new name of each tensor by its old one.
        dropped: names of tensors that are no part of the trunk.
        coverage: how many tensors of each stage were expected and how many were found.
        parity: the largest difference of the features per stage; see `audit.forward_parity`.
        notes: remarks for the user.
        metadata: see `metadata_of`.
        detectron2: what Detectron2's own checkpointer and backbone reported; None if they were not run.
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
    """Takes the trunk from a file, and reads the file first if only its path is given.

    Args:
        source: the path of a checkpoint, or a file opened by `read.open_file`.
        trunk: the trunk to take if the file holds several; see `layouts.recognise`.
        trust: whether to unpickle arbitrary objects of the source; see `read.runs`.

    Raises:
        CheckpointError: the source cannot be read safely, or its bytes are not those that were written.
        LayoutError: the layout of the source is unknown or ambiguous.
        AuditError: a tensor is missing, has a wrong shape, or does not hold numbers.
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
    """Drops the stem's convolution bias if it is all zeros.

    Caffe2's models, and files converted from them by other tools, have one, although the norm that follows makes it
    superfluous.
    """
    return {k: v for k, v in tensors.items() if k != "stem.conv1.bias" or bool((v != 0).any())}


def metadata_of(taken: Taken, source_sha256: str, names: str) -> dict[str, Any]:
    """Returns the metadata stored with the weights: what they are, where they come from, what input they expect.

    Args:
        source_sha256: the SHA-256 of the source file in hexadecimal.
        names: the naming scheme of the output, "detectron2" or "torchvision".

    Returns:
        JSON-like values. `origin` is present if this converter wrote the source itself, and describes the file from
        which the source was made.
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
    """Proves that the converted trunk computes the features of its source.

    Returns:
        The largest difference of the features per stage, relative to the stage's largest feature; and notes on the
        values for the user.

    Raises:
        AuditError: values are not finite, a variance is negative, or the features differ by more than `PARITY_LIMIT`.
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
    """Returns the tensors by their names in the source, without the prefix of the trunk and of wrappers."""
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
    """Converts a pre-trained ResNet to a file that Detectron2 and the torchvision engine can load.

    It writes `output`, the metadata beside it as `<output>.json`, and a config fragment if `emit_config` is given.

    Args:
        source: a checkpoint in any of the layouts of `layouts.LAYOUTS`.
        output: a path that ends in `.pkl` (NumPy arrays, as in Detectron2's model zoo), `.pth` (tensors) or
            `.safetensors`.
        trunk: the trunk to take if the file holds several; see `layouts.recognise`.
        names: the naming scheme of the output, "detectron2" or "torchvision"; see `write.check_output`.
        trust: whether to unpickle arbitrary objects of the source; see `read.runs`.
        verify: a function called with the written file and its metadata before the file gets its final name. It raises
            AuditError to refuse the file.
        emit_config: a path to write the matching config fragment to.

    Raises:
        CheckpointError: the source cannot be read safely.
        LayoutError: the layout of the source is unknown or ambiguous.
        AuditError: a tensor is missing or has a wrong shape, values are not finite, or the features differ.
        OutputError: the output cannot be written, would overwrite the source, or is of a form that no engine loads.
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
