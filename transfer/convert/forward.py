"""Computes a trunk's features under the names that its tensors have, so that no renaming rule takes part.

Shape shorthand: N images; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.convert import keymap
from transfer.convert.architecture import Architecture, AuditError

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

_Names = tuple[str, str, str, str, str]
"""Of one convolution and its norm: weight; scale, shift, mean, variance. The last two may be absent: 0 and 1."""
_BRANCHES = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}


def source_forward(
    source: Mapping[str, Tensor], naming: str, architecture: Architecture, x: Tensor, stride_in_1x1: bool
) -> dict[str, Tensor]:
    """Returns a trunk's features by its own names in evaluation mode: (N, 3, H, W) -> {"res2": ..., ..., "res5": ...}.

    torchvision's names are loaded into torchvision's network, sequential ones into the list of its children; Caffe2's
    are computed on directly. Only Detectron2's names must be renamed for the network, because the other side of the
    comparison is `detectron2_forward`.

    Args:
        source: name within the trunk -> tensor.
        naming: key of `trunks.NAMINGS`.

    Raises:
        AuditError: the network has other names.
    """
    if naming == "caffe2":
        return _forward(source, _caffe2_names, x, stride_in_1x1)
    if naming == "detectron2":
        return network_forward(torchvision_trunk(source, architecture, stride_in_1x1), x)
    model = architecture.build(stride_in_1x1=stride_in_1x1).eval()
    network: nn.Module = nn.Sequential(*model.children()) if naming == "sequential" else model
    head = "9." if naming == "sequential" else "fc."
    if left := not_taken(network.load_state_dict(dict(source), strict=False), head):
        raise AuditError(
            f"torchvision's {architecture.name} does not take the source's tensors ({', '.join(left[:3])})"
        )
    return network_forward(model, x)


def not_taken(lost: Any, head: str = "fc.") -> list[str]:
    """Returns names that `load_state_dict(strict=False)` missed or could not place, but for classifier and counters."""
    missing = [k for k in lost.missing_keys if not k.startswith(head) and not k.endswith("num_batches_tracked")]
    return [*missing, *lost.unexpected_keys]


def relative_differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns, per stage, the largest difference over the largest feature of `ours`; NaN where one is not finite."""
    gaps = {stage: float((theirs[stage] - features).abs().max()) for stage, features in ours.items()}
    sizes = {stage: float(features.abs().max()) for stage, features in ours.items()}
    return {stage: gap / sizes[stage] if sizes[stage] else gap for stage, gap in gaps.items()}


def torchvision_trunk(tensors: Mapping[str, Tensor], architecture: Architecture, stride_in_1x1: bool) -> ResNet:
    """Returns torchvision's network in evaluation mode with a Detectron2-named trunk's tensors and a random `fc`."""
    model = architecture.build(stride_in_1x1=stride_in_1x1).eval()
    state = {keymap.trunk_to_torchvision(k): v for k, v in tensors.items()}
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in state.items() if k is not None}})
    return model


def network_forward(model: ResNet, x: Tensor) -> dict[str, Tensor]:
    """Returns the features of torchvision's network: (N, 3, H, W) -> {"res2": ..., ..., "res5": ...}."""
    features = {}
    with torch.inference_mode():
        y = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for stage in (2, 3, 4, 5):
            y = features[f"res{stage}"] = getattr(model, f"layer{stage - 1}")(y)
    return features


def detectron2_forward(tensors: Mapping[str, Tensor], x: Tensor, stride_in_1x1: bool) -> dict[str, Tensor]:
    """Returns the features of a Detectron2-named trunk in evaluation mode: (N, 3, H, W) -> {"res2": ..., ...}."""
    return _forward(tensors, _detectron2_names, x, stride_in_1x1)


def _detectron2_names(stage: int, block: int, part: str) -> _Names:
    base = f"res{stage}.{block}.{part}" if stage else "stem.conv1"
    norm = f"{base}.norm."
    return f"{base}.weight", norm + "weight", norm + "bias", norm + "running_mean", norm + "running_var"


def _caffe2_names(stage: int, block: int, part: str) -> _Names:
    base = f"res{stage}_{block}_branch{_BRANCHES[part]}" if stage else "conv1"
    norm = f"{base}_bn" if stage else "res_conv1_bn"
    return f"{base}_w", f"{norm}_s", f"{norm}_b", f"{norm}_rm", f"{norm}_riv"


def _forward(
    tensors: Mapping[str, Tensor], names: Callable[[int, int, str], _Names], x: Tensor, stride_in_1x1: bool
) -> dict[str, Tensor]:
    """Returns the features; `names` gives the tensors' names for a stage, block and part, where stage 0 is the stem."""

    def conv(stage: int, block: int, part: str, y: Tensor, stride: int = 1) -> Tensor:
        weight, scale, shift, mean, variance = names(stage, block, part)
        kernel, gamma = tensors[weight], tensors[scale]
        groups = y.shape[1] // kernel.shape[1]
        y = F.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        statistics = tensors.get(mean, torch.zeros_like(gamma)), tensors.get(variance, torch.ones_like(gamma))
        return F.batch_norm(y, *statistics, gamma, tensors[shift])

    with torch.inference_mode():
        y = F.max_pool2d(F.relu(conv(0, 0, "conv1", x, stride=2)), 3, stride=2, padding=1)
        features = {}
        for stage in (2, 3, 4, 5):
            block = 0
            while names(stage, block, "conv1")[0] in tensors:
                stride = 2 if stage > 2 and block == 0 else 1
                bottleneck = names(stage, block, "conv3")[0] in tensors
                first = stride if stride_in_1x1 or not bottleneck else 1
                z = F.relu(conv(stage, block, "conv1", y, first))
                z = conv(stage, block, "conv2", z, stride // first)
                if bottleneck:
                    z = conv(stage, block, "conv3", F.relu(z))
                projected = names(stage, block, "shortcut")[0] in tensors
                y = F.relu(z + (conv(stage, block, "shortcut", y, stride) if projected else y))
                block += 1
            features[f"res{stage}"] = y
    return features
