"""What the linter needs from outside the config: facts about its weights."""

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
    """What is known of initial weights: their architecture from their tensors, the rest from what came with them.

    Args:
        weights: a file; "" for random weights, which give None; or an address, which is not opened: Detectron2's
            ImageNet trunks are known by their names, others give no facts. Nor does a file that holds no plain trunk.

    Raises:
        CheckpointError: the file does not exist, cannot be read, or is of a form that no engine loads.
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
