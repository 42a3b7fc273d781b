"""ResNets that the detectors of the papers cannot start from, and by what they are known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# a tensor's name after the trunk's prefix (in any naming) -> why
_BY_NAME = (
    (r"^conv1\.\d+\.|^stem\.\d+\.|^stem\.conv[23]\.|^0\.\d+\.|^conv[23]\.weight$",
     "it has a deep stem (several small convolutions instead of one 7x7), and a detector's stem is the 7x7"),
    (r"\.downsample\.2\.|\.shortcut\.[12]\.",
     "it is a ResNet-D (average pooling in its shortcuts), and a detector's shortcuts are strided convolutions"),
    (r"\.(se|se_module|se_layer|eca|cbam|attn|attn_last)\.",
     "it has squeeze-and-excitation or attention blocks, which a detector's ResNet has not"),
    (r"\.(conv2_offset|conv2\.conv_offset|conv2\.conv)\b", "it has deformable or split convolutions"),
    (r"\.(aa|anti_alias|blur)\.|\.conv2\.1\.", "it blurs before its strides (anti-aliased ResNet)"),
    (r"\.(gn|ln|in)[1-3]\.", "it has another norm than batch norm"),
    (r"\bflat_param\b|_flat_param", "it is an FSDP shard; save the full state dict, gathered on one process"),
    (r"\.(lora_[AB]|parametrizations|weight_orig|weight_mask|weight_[gv])\b",
     "its weights are reparametrised; merge them into plain weights first"),
)  # fmt: skip


def by_name(names: Iterable[str]) -> str | None:
    """Why these tensors, which a plain ResNet has not, make the trunk unfit; None if no variant is known by them."""
    names = list(names)
    return next((reason for pattern, reason in _BY_NAME if any(re.search(pattern, n) for n in names)), None)


def by_stem(tensors: Mapping[str, Any]) -> str | None:
    """Why the shape of the first convolution, (out, in, height, width), makes a trunk unfit; None if it does not.

    Args:
        tensors: Detectron2-named.
    """
    shape = tuple(getattr(tensors.get("stem.conv1.weight"), "shape", ()))
    if len(shape) != 4 or shape[2:] == (7, 7) and shape[1] == 3:
        return None
    if shape[1] in (1, 2):
        return f"its first convolution sees {shape[1]} of 3 colour channels, and a detector's images have three"
    if shape[1] != 3:
        return f"its first convolution takes {shape[1]} channels, and a detector's images have three"
    if shape[2:] == (3, 3):
        return "it has a stem for small images (3x3 convolution, no max-pooling, as for CIFAR); a detector's is 7x7"
    return f"its first convolution is {shape[2]}x{shape[3]}, and a detector's is 7x7"
