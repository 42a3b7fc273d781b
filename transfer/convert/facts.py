"""Reads from a file how images must be given to its weights: channel order, mean, std and stride rule."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

RGB_IMAGENET = {
    "channel_order": "RGB",
    "pixel_mean": [123.675, 116.280, 103.530],
    "pixel_std": [58.395, 57.120, 57.375],
    "stride_in_1x1": False,
}
BGR_MSRA = {
    "channel_order": "BGR",
    "pixel_mean": [103.530, 116.280, 123.675],
    "pixel_std": [1.0, 1.0, 1.0],
    "stride_in_1x1": True,
}
BGR_FAIR = {**BGR_MSRA, "pixel_std": [57.375, 57.120, 58.395], "stride_in_1x1": False}
KEYS = tuple(RGB_IMAGENET)
ORIGIN = ("layout", "trunk", "source", "source_sha256")
_RGB_AUTHORS = ("torchvision", "moco", "densecl", "openselfsup", "mmselfsup")  # `author` or `__author__` of their tools

_LIST = r"[\[(]([-\d.,\s]{1,80})[\])]"
_NORMALISED = re.compile(rf"\bmean=\s*{_LIST}\s*,\s*std=\s*{_LIST}")
_TO_RGB = re.compile(r"\b(?:bgr_)?to_rgb=(True|False)")
_STYLE = re.compile(r"\bstyle=['\"](caffe|pytorch)['\"]")
_LONGEST_CONFIG = 1 << 20
_LONGEST_NORM = 1 << 16


def stated_facts(content: Any) -> Mapping[str, Any] | None:
    """Returns the facts that this converter wrote into a file, in any of its forms; None if there are no valid ones."""
    facts = content.get("metadata") if isinstance(content, Mapping) else None
    if facts is None:
        carried = getattr(content, "_metadata", None)
        facts = carried.get("moco-transfer") if isinstance(carried, Mapping) else None
    if isinstance(facts, str):
        try:
            facts = json.loads(facts)
        except (ValueError, RecursionError):
            return None
    if not isinstance(facts, Mapping) or not _are_facts(facts):
        return None
    return {key: facts[key] for key in KEYS} | _history(facts)


def _are_facts(facts: Mapping[Any, Any]) -> bool:
    """Returns whether order, mean and std are either all stated and valid, or all not stated."""
    if any(key not in facts for key in KEYS) or not any(facts["stride_in_1x1"] is v for v in (True, False, None)):
        return False
    order, mean, std = (facts[key] for key in ("channel_order", "pixel_mean", "pixel_std"))
    if order is None:
        return mean is None and std is None
    return isinstance(order, str) and order in ("RGB", "BGR") and _numbers(mean) and _numbers(std) and min(std) > 0


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    )


def _history(facts: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns what else the converter has written and reads again, where it has the type that was written."""
    kinds = {**dict.fromkeys(ORIGIN, str), "batch_norm": str, "tensors_crc32": int}
    kept: dict[str, Any] = {key: facts[key] for key, kind in kinds.items() if type(facts.get(key)) is kind}
    origin = facts["origin"] if isinstance(facts.get("origin"), Mapping) else {}
    if first := {key: origin[key] for key in ORIGIN if type(origin.get(key)) is str}:
        kept["origin"] = first
    return kept


def configured_facts(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns what OpenMMLab's files say of their images in `meta`, the text of their config; None if it says nothing.

    Channels are in the order of the file's mean. If the text names two ways, every fact is None.
    """
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    text = next((t for t in (meta.get("config"), meta.get("cfg")) if isinstance(t, str)), "")[:_LONGEST_CONFIG]
    pixels = {(_three(mean), _three(std)) for mean, std in _NORMALISED.findall(text)}
    orders, styles = set(_TO_RGB.findall(text)), set(_STYLE.findall(text))
    if not pixels or not orders:
        return None
    ((mean, std),) = pixels if len(pixels) == 1 else ((None, None),)
    if mean is None or std is None or len(orders) > 1 or len(styles) > 1:
        return dict.fromkeys(KEYS)
    order = "RGB" if orders == {"True"} else "BGR"
    return {"channel_order": order, "pixel_mean": list(mean), "pixel_std": list(std),
            "stride_in_1x1": styles == {"caffe"}}  # fmt: skip


def _three(text: str) -> tuple[float, ...] | None:
    """Returns three numbers in 0..255, None for other things; scales fractions of one, as torchvision has them."""
    try:
        values = tuple(float(v) for v in text.rstrip(", \n").split(","))
    except ValueError:
        return None
    if len(values) != 3:
        return None
    return tuple(round(v * 255, 3) for v in values) if all(0 < v < 1 for v in values) else values


def by_author(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the facts of files whose named author trains on RGB images with ImageNet's mean and std; else None."""
    named = (content.get(key) for key in ("__author__", "author"))
    return RGB_IMAGENET if any(isinstance(a, str) and a.lower() in _RGB_AUTHORS for a in named) else None


def statistics_folded(tensors: Mapping[str, Any]) -> bool:
    """Returns whether every norm has mean 0 and variance 1 beside scales that were trained.

    Such weights come from Caffe, whatever their names: its statistics are folded into scale and shift. Weights that
    never saw an image have scales of 1 (or of 0, where residual branches start from nothing).

    Args:
        tensors: Detectron2-named tensors, as they are in the file.
    """
    trained = False
    for key in (k for k in tensors if k.endswith("norm.weight")):
        norm = key.removesuffix("weight")
        scale, mean, var = (_vector(tensors.get(norm + part)) for part in ("weight", "running_mean", "running_var"))
        if scale is None or mean is None or var is None:
            return False
        if bool((mean != 0).any()) or bool(((var - 1).abs() > 2e-5).any()):
            return False
        trained = trained or bool(((scale != 0) & (scale != 1)).any())
    return trained


def _vector(value: Any) -> Tensor | None:
    """Returns a norm's parameter in float32; None for anything but a dense vector of a plausible length."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 1 and value.size <= _LONGEST_NORM:
        return torch.from_numpy(value.astype(np.float32))
    plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout == torch.strided and not value.is_meta
    if plain and value.is_floating_point() and value.ndim == 1 and value.numel() <= _LONGEST_NORM:
        return value.detach().to(torch.float32)
    return None
