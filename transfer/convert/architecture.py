"""Tells which ResNet a set of tensors is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pretrain.runtime.errors import ExpectedError

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

_BLOCK_COUNTS = {
    ("basic", (2, 2, 2, 2)): 18,
    ("basic", (3, 4, 6, 3)): 34,
    ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101,
    ("bottleneck", (3, 8, 36, 3)): 152,
}
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
DEPTHS = tuple(_BLOCK_COUNTS.values())


class AuditError(ExpectedError, ValueError):
    """A trunk that is incomplete, has wrong shapes, or computes something else after conversion."""


@dataclass(frozen=True)
class Architecture:
    """Describes a ResNet, as its tensors show it.

    Attributes:
        groups, width_per_group: groups and width of the 3x3 convolutions of res2's bottlenecks.
        wider: factor on the channels of every layer, including the stem (2 and 4 for the papers' w2x and w4x; below 1
            for small machines). For bottlenecks it is contained in `width_per_group`, too, as in Detectron2's
            WIDTH_PER_GROUP. Basic blocks do not read that: theirs stays 64.
    """

    depth: int
    groups: int
    width_per_group: int
    wider: float = 1

    @property
    def stem_out_channels(self) -> int:
        return int(64 * self.wider)

    @property
    def res2_out_channels(self) -> int:
        return int((64 if self.depth < 50 else 256) * self.wider)

    @property
    def name(self) -> str:
        if self.wider != 1:
            return f"resnet{self.depth}_w{self.wider:g}x"
        if self.groups > 1:
            return f"resnext{self.depth}_{self.groups}x{self.width_per_group}d"
        return f"resnet{self.depth}" + (f"_width{self.width_per_group}" if self.width_per_group != 64 else "")

    def facts(self) -> dict[str, Any]:
        """Returns what a config must agree with, by the names that are stored with converted weights."""
        return {
            "arch": self.name,
            "depth": self.depth,
            "groups": self.groups,
            "width_per_group": self.width_per_group,
            "stem_out_channels": self.stem_out_channels,
            "res2_out_channels": self.res2_out_channels,
        }

    def build(self, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, stride_in_1x1: bool = False) -> ResNet:
        """Makes torchvision's ResNet of this architecture with He initialisation (fan-out).

        If only shapes are needed, call it on the meta device.

        Args:
            norm_layer: channels -> module.
            stride_in_1x1: whether a bottleneck has its stride in its first 1x1 convolution (MSRA) instead of the 3x3
                (torchvision).
        """
        from transfer.convert import network  # torchvision takes seconds to import, and most ask for facts alone

        return network.build(self, norm_layer, stride_in_1x1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns Detectron2 name -> shape of every tensor, including `num_batches_tracked` (318 for ResNet-50)."""
        shapes: dict[str, tuple[int, ...]] = {}

        def add(name: str, channels: int, out_channels: int, size: int, groups: int = 1) -> None:
            shapes[f"{name}.weight"] = (out_channels, channels // groups, size, size)
            shapes.update({f"{name}.norm.{k}": (out_channels,) for k in _STATISTICS})
            shapes[f"{name}.norm.num_batches_tracked"] = ()

        channels = self.stem_out_channels
        add("stem.conv1", 3, channels, 7)
        for stage, blocks in enumerate(self.layers()):
            out = self.res2_out_channels * 2**stage
            inner = out if self.depth < 50 else self.groups * self.width_per_group * 2**stage
            for block in range(blocks):
                name = f"res{stage + 2}.{block}"
                if self.depth < 50:
                    add(f"{name}.conv1", channels, inner, 3)
                    add(f"{name}.conv2", inner, out, 3)
                else:
                    add(f"{name}.conv1", channels, inner, 1)
                    add(f"{name}.conv2", inner, inner, 3, self.groups)
                    add(f"{name}.conv3", inner, out, 1)
                if block == 0 and (stage or self.depth >= 50):
                    add(f"{name}.shortcut", channels, out, 1)
                channels = out
        return shapes

    def layers(self) -> list[int]:
        """Returns the numbers of blocks in res2 to res5."""
        return next(list(counts) for (_, counts), depth in _BLOCK_COUNTS.items() if depth == self.depth)


def infer_architecture(tensors: Mapping[str, Tensor]) -> Architecture:
    """Infers depth, groups and width from Detectron2-named tensors.

    Raises:
        AuditError: the blocks of a stage are not those of any ResNet, or they are basic blocks wider than their stem.
    """
    blocks: dict[int, set[int]] = {stage: set() for stage in (2, 3, 4, 5)}
    for key in tensors:
        if key.startswith("res"):
            stage, block = key.split(".")[:2]
            if len(block) > 3:
                raise AuditError(f"{stage} has a block {block[:20]}, which no ResNet has")
            blocks[int(stage[3:])].add(int(block))
    counts = tuple(max(found) + 1 if found else 0 for found in blocks.values())
    kind = "bottleneck" if any(".conv3." in k for k in tensors) else "basic"
    depth = _BLOCK_COUNTS.get((kind, counts))  # type: ignore[arg-type]
    if depth is None:
        raise AuditError(f"stages res2..res5 hold {counts} {kind} blocks, which is no ResNet-18, 34, 50, 101 or 152")
    first, stem = tensors.get("res2.0.conv2.weight"), tensors.get("stem.conv1.weight")
    if first is None or first.ndim != 4 or not first.shape[1]:
        return Architecture(depth, 1, 64)
    width, per_group = int(first.shape[0]), int(first.shape[1])
    groups = width // per_group
    in_stem = stem.shape[0] if stem is not None and stem.ndim == 4 else 0
    as_wide_as_its_stem = groups == 1 and width == in_stem and width % 16 == 0
    if kind == "basic":
        if width == per_group != 64 and not as_wide_as_its_stem:
            raise AuditError(
                f"res2 is {width} channels wide, not 64, and the stem {in_stem or 'missing'}: a ResNet-{depth} of "
                "another width has the same multiple of 16 in both"
            )
        return Architecture(depth, 1, 64, wider=width / 64 if as_wide_as_its_stem else 1)
    if as_wide_as_its_stem:
        return Architecture(depth, 1, width, wider=width / 64)
    return Architecture(depth, groups, per_group if groups > 1 else width)
