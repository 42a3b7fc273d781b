"""Translates between files with Detectron2's names and the torchvision engine's modules."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert import keymap
from transfer.engines.resolve import HEADS

logger = logging.getLogger(__name__)


def detectron2_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the detector's state under Detectron2's names, on the CPU, for a file that stock Detectron2 loads."""
    out = {}
    for key, value in model.state_dict().items():
        name = keymap.detector_to_detectron2(key)
        named = any(key.startswith(part) for part in ("backbone.", "rpn.", "roi_heads."))
        assert name is not None or not named, f"the torchvision detector has '{key}', which Detectron2 has not"
        out[name or key] = value.detach().cpu().clone()  # a head of another task has one name on both engines
    return out


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> list[str]:
    """Loads a whole detector, or a trunk whose conv5 goes into the box head; a trunk file leaves the heads random.

    Args:
        weights: tensors by Detectron2's names: a detector's `backbone.*`, `proposal_generator.*`, ..., or a trunk's
            `stem.*`, `res2.*`, ...

    Returns:
        Names of the model's tensors that the file did not set.

    Raises:
        CheckpointError: a tensor of the trunk is missing or of another shape (another depth), or a detector's head
            has another shape (another number of classes).
    """
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        for name in _targets(key):
            if name in own:
                found[name] = value
    problems = [
        f"{name}: the file has {tuple(found[name].shape)}, the model {tuple(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    optional = ("num_batches_tracked",)
    missing = [name for name in own if name not in found and not name.endswith(optional)]
    trunk_missing = [name for name in missing if keymap.trunk_part(keymap.detector_to_detectron2(name) or "")]
    is_detector = any(key.startswith(HEADS) for key in weights)
    problems += [f"{name}: not in the file" for name in (missing if is_detector else trunk_missing)]
    if problems:
        shown = "\n  ".join(problems[:5]) + (f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(
            f"'{source}' does not fit this model; check MODEL.RESNETS.DEPTH, the number of classes, and that the file "
            f"was converted for Detectron2:\n  {shown}"
        )
    model.load_state_dict({name: found.get(name, value) for name, value in own.items()})
    return missing


def grouped(names: Sequence[str]) -> str:
    """Counts tensors by their names' first two modules: `rpn.head (6), roi_heads.box_predictor (4)`."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in counts.items())


def _targets(key: str) -> list[str]:
    """Returns the names in the model to which a file's tensor may go."""
    whole = keymap.detector_to_torchvision(key)
    if whole is not None:
        return [whole]
    trunk = keymap.trunk_to_torchvision(key)
    if trunk is None:
        return [key]
    places = ("backbone.", "backbone.bottom_up.", "roi_heads.box_head.")
    return [place + trunk for place in places]


def as_tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Turns numpy arrays (of a `.pkl`) and tensors alike into tensors."""
    return {k: torch.as_tensor(v) for k, v in state.items()}
