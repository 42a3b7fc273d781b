"""Reads from initial weights the facts that the linter compares with the config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.convert.architecture import AuditError, infer_architecture
from transfer.convert.layouts import BGR_FAIR, BGR_MSRA, RGB_IMAGENET, LayoutError, facts_of, recognise
from transfer.convert.read import check_written_for_detectron2, read_file

# Detectron2's model zoo, by folder: how its ImageNet trunks were trained (FAIR: its ResNeXts).
_ZOO = re.compile(r"^detectron2://ImageNetPretrained/(MSRA|torchvision|FAIR)/[RX]-(\d+)(?:-(\d+)x(\d+)d)?\.pkl$")
_ZOO_FACTS: Mapping[str, Mapping[str, Any]] = {"MSRA": BGR_MSRA, "torchvision": RGB_IMAGENET, "FAIR": BGR_FAIR}


def weights_facts(weights: str) -> Mapping[str, Any] | None:
    """Returns what is known of initial weights: their architecture by their tensors, the rest by what comes with them.

    Args:
        weights: a file; "" for random weights, for which None is returned; or an address, which is not opened:
            Detectron2's ImageNet trunks are known by their names, and other addresses give no facts. Neither does a
            file without a plain trunk.

    Raises:
        CheckpointError: the file does not exist, cannot be read, or has a form that no engine loads.
    """
    if not weights:
        return None
    if "://" in weights:
        return _of_the_zoo(weights)
    content = read_file(Path(weights))
    check_written_for_detectron2(content, weights)
    try:
        found = recognise(content)
        architecture = infer_architecture(found.tensors)
    except (AuditError, LayoutError):
        return {}
    return {**(facts_of(found, architecture) or {}), **architecture.facts()}


def _of_the_zoo(address: str) -> Mapping[str, Any]:
    match = _ZOO.match(address)
    if match is None:
        return {}
    folder, depth, groups, width = match.groups()
    return {
        **_ZOO_FACTS[folder],
        "arch": Path(address).stem,
        "depth": int(depth),
        "groups": int(groups or 1),
        "width_per_group": int(width or 64),
    }
