"""The same detector on both engines, with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer.config.load import load_config

# What random weights lack: detections with high scores. Scaling the last layers spreads scores over (0, 1).
SPREAD = {
    "roi_heads.box_predictor.cls_score.weight": 30.0,
    "proposal_generator.rpn_head.objectness_logits.weight": 20.0,
    "roi_heads.mask_head.predictor.weight": 300.0,
    "roi_heads.keypoint_head.score_lowres.weight": 0.1,  # beyond about 100, softmax scores overflow on either engine
}


def pair(config: Path, opts: Sequence[str], norm: str = "BN", spread: bool = True) -> tuple[Any, nn.Module, nn.Module]:
    """(config, Detectron2's model, the torchvision engine's model), equal weights, on CPU.

    Args:
        spread: with lively BN statistics and sure detections; else as a training begins.
    """
    from detectron2.modeling import build_model

    from transfer.engines.d2.engine import Detectron2Engine
    from transfer.engines.tv.adapters.instances import build_detector
    from transfer.engines.tv.weights import detectron2_state, load_weights

    opts = [*opts, "MODEL.RESNETS.NORM", norm]
    if load_config(config).MODEL.FPN.NORM:
        opts += ["MODEL.FPN.NORM", norm]
    cfg = load_config(config, opts)
    torch.manual_seed(0)
    ours = build_detector(cfg)
    state = lively(ours, cfg) if spread else detectron2_state(ours)
    load_weights(ours, state, "test")
    theirs = build_model(load_config(config, opts, Detectron2Engine().defaults()))
    incompatible = theirs.load_state_dict(state, strict=False)
    assert not incompatible.missing_keys and not incompatible.unexpected_keys
    return cfg, theirs, ours


def spread_norms(model: nn.Module) -> None:
    """Gives every batch norm the statistics and weights of a trained one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)


def lively(model: nn.Module, cfg: Any) -> dict[str, torch.Tensor]:
    """State of a model of ours, by Detectron2's names, with `spread_norms` and `SPREAD`. Changes the model's norms."""
    from transfer.engines.tv.weights import detectron2_state

    spread_norms(model)
    state = detectron2_state(model)
    for key, factor in SPREAD.items():
        if key in state:
            state[key] *= factor
    (stem,) = (key for key in state if key.endswith("stem.conv1.weight"))
    state[stem] *= sum(cfg.MODEL.PIXEL_STD) / 171.0  # std 1 would saturate every softmax
    return state
