"""Recognises the ResNets that the papers' detectors cannot start from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_DEEP = "it has a deep stem (several small convolutions instead of one 7x7), and a detector's stem is the 7x7"
_ATTENTION = "it has squeeze-and-excitation or attention blocks, which a detector's ResNet has not"
_NORM = "it has another norm than batch norm"
FLATTENED = (
    "it holds FSDP's flattened parameters; save the full state dict instead: StateDictType.FULL_STATE_DICT, or "
    "get_model_state_dict with full_state_dict=True"
)
_FLAT = r"(^|\.)_?flat_param(_\d+)?$"
# a tensor's name within the trunk's own modules, in any naming -> why
_WITHIN = (
    (r"^conv1\.\d+\.|^stem\.\d+\.|^stem\.conv[23]\.|^0\.\d+\.", _DEEP),
    (r"\.downsample\.2\.|\.shortcut\.[12]\.",
     "it is a ResNet-D (average pooling in its shortcuts), and a detector's shortcuts are strided convolutions"),
    (r"\.(se|se_module|se_layer|eca|cbam|attn|attn_last)\.", _ATTENTION),
    (r"\.(conv2_offset|conv2\.conv_offset|conv2\.conv)\b", "it has deformable or split convolutions"),
    (r"\.(aa|anti_alias|blur)\.|\.conv2\.1\.", "it blurs before its strides (anti-aliased ResNet)"),
    (r"\.(avd|avd_first|avd_last)\.", "it pools in its blocks (ResNeSt)"),
    (r"\.(gn|ln|in)[1-3]\.", _NORM),
    (_FLAT, FLATTENED),
    (r"\.(lora_[AB]|parametrizations|weight_orig|weight_mask|weight_[gv])\b",
     "its weights are reparametrised; merge them into plain weights first"),
)  # fmt: skip
# a tensor's name beside those modules that is no head either, since features pass through it -> why
_BESIDE = (
    (r"^(stem(?!\.fc\.)|conv\d*|bn[02-9]|norm\d)\.", _DEEP),
    (r"^attnpool\.", "it ends in attention pooling (CLIP), and its stem and strides are other ones than a detector's"),
    (r"^(ca|sa|se|eca|cbam|attn|attention|nl|non_?local|gc|stn)\d*\.", _ATTENTION),
    (r"^(gn|ln|in)\d\.", _NORM),
    (r"^(layer|stage)s?_?\d*\.", "it has other stages than layer1 to layer4"),
    (_FLAT, FLATTENED),
)  # fmt: skip


# words of a name beside the trunk's modules, of which at least one is in that of every head, queue, or other encoder
_HEADS = frozenset(
    "averaged auxiliary backbone bbox center centers classifier classifiers cls contrast criterion decode decoder ema "
    "encoder fc fpn head heads key learner linear logit logits loss mask memory mlp momentum neck online predict "
    "prediction predictor predictors probe proj projection projector projectors prototype prototypes ptr queue reduce "
    "roi rpn student target teacher temperature".split()
)


def no_heads(beside: Iterable[str]) -> list[str]:
    """Returns modules beside the trunk's own that are not named like any known head: features may pass through them."""
    first = dict.fromkeys(name.split(".")[0] for name in beside)
    return [name for name in first if _HEADS.isdisjoint(re.split(r"[_\d]+", name.lower())) and name != "top_block"]


def by_name(within: Iterable[str], beside: Iterable[str] = ()) -> str | None:
    """Returns why tensors that a plain ResNet lacks make the trunk unfit; None if no variant is known by them.

    Args:
        within: names within the trunk's own modules.
        beside: other names under the trunk's prefix; most are heads, which do no harm.
    """
    for names, table in ((list(within), _WITHIN), (list(beside), _BESIDE)):
        for pattern, reason in table:
            if any(re.search(pattern, n) for n in names):
                return reason
    return None


def by_arch(arch: object) -> str | None:
    """Returns why a file's name for its architecture makes the trunk unfit, where no tensor shows it; else None."""
    if isinstance(arch, str) and re.search(r"res\w*(aa|blur)", arch):
        return f"its architecture is '{arch[:40]}', which blurs before its strides (anti-aliased ResNet)"
    return None


def by_norm(tensors: Mapping[str, Any]) -> str | None:
    """Returns why norms without running statistics make a trunk unfit; None if there are any, or no norms at all.

    Args:
        tensors: Detectron2-named tensors.
    """
    if not any(k.endswith("norm.weight") for k in tensors) or any(".running_" in k for k in tensors):
        return None
    return "its norms have no running statistics (group norm?), and the trunk of the papers' detectors has batch norm"


def by_stem(tensors: Mapping[str, Any]) -> str | None:
    """Returns why the shape (out, in, height, width) of the first convolution makes a trunk unfit; None if it does not.

    Args:
        tensors: Detectron2-named tensors.
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


def flattened(names: Iterable[str]) -> bool:
    """Returns whether any name is that of parameters that FSDP has flattened into one vector."""
    return any(re.search(_FLAT, n) for n in names)
