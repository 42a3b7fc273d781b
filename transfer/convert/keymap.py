"""Maps tensor names between torchvision and Detectron2, both ways, with pure string functions.

Trunk:     conv1, bn1, layer1..4, downsample.{0,1}       <->  stem.conv1, res2..5, convN.norm, shortcut[.norm]
Detector:  backbone.*, rpn.head.*, roi_heads.box_head.*  <->  backbone.*, proposal_generator.*, roi_heads.res5.*
"""

from __future__ import annotations

import re
from collections.abc import Callable

STAGES = ("stem", "res2", "res3", "res4", "res5")

_PARAMETER = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_TO_DETECTRON2 = (
    (re.compile(rf"^conv1\.{_PARAMETER}$"), r"stem.conv1.\1"),
    (re.compile(rf"^bn1\.{_PARAMETER}$"), r"stem.conv1.norm.\1"),
    (re.compile(rf"^layer([1-4])\.(\d+)\.conv([1-3])\.{_PARAMETER}$"), r"res<\1>.\2.conv\3.\4"),
    (re.compile(rf"^layer([1-4])\.(\d+)\.bn([1-3])\.{_PARAMETER}$"), r"res<\1>.\2.conv\3.norm.\4"),
    (re.compile(rf"^layer([1-4])\.(\d+)\.downsample\.0\.{_PARAMETER}$"), r"res<\1>.\2.shortcut.\3"),
    (re.compile(rf"^layer([1-4])\.(\d+)\.downsample\.1\.{_PARAMETER}$"), r"res<\1>.\2.shortcut.norm.\3"),
)
_TO_TORCHVISION = (
    (re.compile(rf"^stem\.conv1\.{_PARAMETER}$"), r"conv1.\1"),
    (re.compile(rf"^stem\.conv1\.norm\.{_PARAMETER}$"), r"bn1.\1"),
    (re.compile(rf"^res([2-5])\.(\d+)\.conv([1-3])\.{_PARAMETER}$"), r"layer<\1>.\2.conv\3.\4"),
    (re.compile(rf"^res([2-5])\.(\d+)\.conv([1-3])\.norm\.{_PARAMETER}$"), r"layer<\1>.\2.bn\3.\4"),
    (re.compile(rf"^res([2-5])\.(\d+)\.shortcut\.{_PARAMETER}$"), r"layer<\1>.\2.downsample.0.\3"),
    (re.compile(rf"^res([2-5])\.(\d+)\.shortcut\.norm\.{_PARAMETER}$"), r"layer<\1>.\2.downsample.1.\3"),
)
_HEADS = (  # torchvision engine, Detectron2; the first prefix that fits counts
    ("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv."),
    ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
    ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
    ("roi_heads.box_head.norm.", "roi_heads.res5.norm."),
    ("roi_heads.box_head.fc", "roi_heads.box_head.fc"),
    ("roi_heads.mask_head.", "roi_heads.mask_head."),
    ("roi_heads.keypoint_head.", "roi_heads.keypoint_head."),
    ("backbone.reduce.1.", "backbone.reduce.norm."),
    ("backbone.reduce.0.", "backbone.reduce."),
    *(
        (f"backbone.fpn.{ours}.{level}.{part}.", f"backbone.fpn_{theirs}{level + 2}.{norm}")
        for ours, theirs in (("inner_blocks", "lateral"), ("layer_blocks", "output"))
        for level in range(4)
        for part, norm in ((1, "norm."), (0, ""))
    ),
    ("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.cls_score."),
    ("roi_heads.box_predictor.bbox_pred.", "roi_heads.box_predictor.bbox_pred."),
)
_BACKBONES = ("backbone.bottom_up.", "backbone.")  # under a pyramid or a convolution, and by itself


def trunk_to_detectron2(key: str) -> str | None:
    """Renames `layer1.0.bn2.weight` to `res2.0.conv2.norm.weight`; None for a name that no ResNet trunk has."""
    return _rewrite(key, _TO_DETECTRON2, shift=1)


def trunk_to_torchvision(key: str) -> str | None:
    """Renames `res2.0.conv2.norm.weight` to `layer1.0.bn2.weight`; None for a name that no ResNet trunk has."""
    return _rewrite(key, _TO_TORCHVISION, shift=-1)


def _rewrite(key: str, rules: tuple[tuple[re.Pattern[str], str], ...], shift: int) -> str | None:
    for pattern, template in rules:
        if pattern.match(key):
            renamed = pattern.sub(template, key)
            return re.sub(r"<(\d)>", lambda m: str(int(m.group(1)) + shift), renamed)
    return None


def stage_of(detectron2_key: str) -> str:
    """Returns the stage (`stem`, `res2`, ...) of a trunk name in Detectron2's form."""
    return detectron2_key.split(".", 1)[0]


def detector_to_detectron2(key: str) -> str | None:
    """Renames a tensor of the torchvision engine's detector for Detectron2; None if it has no counterpart there."""
    head = next((theirs + key[len(ours) :] for ours, theirs in _HEADS if key.startswith(ours)), None)
    if head is not None:
        return head
    for prefix in _BACKBONES:
        if key.startswith(prefix):
            return _prefixed(prefix, trunk_to_detectron2(key[len(prefix) :]))
    if key.startswith("roi_heads.box_head.layer4."):
        return _prefixed("roi_heads.", trunk_to_detectron2(key[len("roi_heads.box_head.") :]))
    return None


def detector_to_torchvision(key: str) -> str | None:
    """Renames a tensor of a Detectron2 detector for the torchvision engine; None if it has no counterpart there."""
    ours = next((ours + key[len(theirs) :] for ours, theirs in _HEADS if key.startswith(theirs)), None)
    if ours is not None:
        return ours
    for prefix in _BACKBONES:
        if key.startswith(prefix):
            return _prefixed(prefix, trunk_to_torchvision(key[len(prefix) :]))
    if key.startswith("roi_heads.res5."):
        return _prefixed("roi_heads.box_head.", trunk_to_torchvision(key[len("roi_heads.") :]))
    return None


def trunk_part(detectron2_key: str) -> str | None:
    """Returns a detector tensor's name in the trunk: `backbone.bottom_up.res2.0.conv1.weight` -> `res2.0.conv1.weight`.

    It returns None for what is not part of a trunk: a pyramid, the convolution behind a dilated conv5, the norm after
    res5, heads.
    """
    for prefix in (*_BACKBONES, "roi_heads."):
        rest = detectron2_key.removeprefix(prefix)
        if rest != detectron2_key and trunk_to_torchvision(rest) is not None:
            return rest
    return None


def _prefixed(prefix: str, name: str | None) -> str | None:
    return None if name is None else prefix + name


def caffe2_to_detectron2(key: str) -> str | None:
    """Renames a tensor of the MSRA / Caffe2 ResNet files that Detectron2 downloads.

    It returns None for the classifier and for unknown names. Examples are `conv1_w` -> `stem.conv1.weight`,
    `res_conv1_bn_s` -> `stem.conv1.norm.weight`, `res2_0_branch2a_w` -> `res2.0.conv1.weight`, and
    `res2_0_branch1_bn_b` -> `res2.0.shortcut.norm.bias`.
    """
    parameter: dict[str, str] = {"w": "weight", "b": "bias", "bn_s": "norm.weight", "bn_b": "norm.bias"}
    m = re.match(r"^conv1_(w|b)$", key) or re.match(r"^res_conv1_(bn_s|bn_b)$", key)
    if m:
        return f"stem.conv1.{parameter[m.group(1)]}"
    m = re.match(r"^res([2-5])_(\d+)_branch(1|2a|2b|2c)_(w|bn_s|bn_b)$", key)
    if not m:
        return None
    conv = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}[m.group(3)]
    return f"res{m.group(1)}.{m.group(2)}.{conv}.{parameter[m.group(4)]}"


def sequential_to_detectron2(key: str) -> str | None:
    """Renames a tensor of `nn.Sequential(*resnet.children())`; returns None for names outside of the trunk.

    The child 0 is conv1, 1 is bn1, and 4 to 7 are the layers: `0.weight` -> `stem.conv1.weight`,
    `4.0.bn1.bias` -> `res2.0.conv1.norm.bias`.
    """
    index, _, rest = key.partition(".")
    module = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}.get(index)
    return None if module is None else trunk_to_detectron2(f"{module}.{rest}")


def rename(keys: list[str], rule: Callable[[str], str | None]) -> dict[str, str]:
    """Returns {old: new} for every key that `rule` knows; raises an error if two keys would get the same new name."""
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for key in keys:
        new = rule(key)
        if new is None:
            continue
        if new in taken:
            raise ValueError(f"both '{taken[new]}' and '{key}' would become '{new}'")
        taken[new] = key
        out[key] = new
    return out
