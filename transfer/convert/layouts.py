"""How ResNet checkpoints are laid out: a table of where the trunk lies and what around it may be dropped.

A layout is recognised by structure, never by file name. To add one, add an entry to `LAYOUTS` and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transfer.convert import keymap

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


class LayoutError(ValueError):
    """A checkpoint whose layout is not in the table, or that does not keep to it."""


@dataclass(frozen=True)
class Layout:
    """One entry.

    Attributes:
        name: what the report calls it.
        path: keys from the top of the file to the state dict; () if the file is the state dict.
        prefix: what stands before the trunk's names.
        probe: a name (after the prefix) that must be there.
        drop: prefixes of full names that are known not to belong to the trunk.
        rule: a name after the prefix -> Detectron2's name, or None.
        facts: channel order, mean, std and stride rule of weights in this layout; None where the file has to say.
        batch_norm_folded: whether running statistics are folded into scale and shift (Caffe2 files).
    """

    name: str
    path: tuple[str, ...]
    prefix: str
    probe: str
    drop: tuple[str, ...]
    rule: Callable[[str], str | None] = keymap.trunk_to_detectron2
    facts: Mapping[str, Any] | None = None
    batch_norm_folded: bool = False


def _detectron2_name(key: str) -> str | None:
    return key if keymap.trunk_to_torchvision(key) is not None else None


_MOCO_DROP = ("encoder_q.fc.", "encoder_k.", "queue", "queue_ptr")

LAYOUTS = (
    Layout(
        "MoCo v1/v2",
        path=("state_dict",),
        prefix="module.encoder_q.",
        probe="conv1.weight",
        drop=tuple(f"module.{name}" for name in _MOCO_DROP),
        facts=RGB_IMAGENET,
    ),
    Layout(
        "MoCo v1/v2, not wrapped",
        path=("state_dict",),
        prefix="encoder_q.",
        probe="conv1.weight",
        drop=_MOCO_DROP,
        facts=RGB_IMAGENET,
    ),
    Layout(
        "MoCo linear probe",
        path=("state_dict",),
        prefix="module.",
        probe="conv1.weight",
        drop=("module.fc.",),
        facts=RGB_IMAGENET,
    ),
    Layout("torchvision", path=(), prefix="", probe="conv1.weight", drop=("fc.",), facts=RGB_IMAGENET),
    Layout(
        "Detectron2 trunk",
        path=("model",),
        prefix="",
        probe="stem.conv1.weight",
        drop=("fc.", "stem.fc.", "linear."),
        rule=_detectron2_name,
    ),
    Layout(
        "Caffe2 (MSRA)",
        path=(),
        prefix="",
        probe="conv1_w",
        drop=("fc1000_", "pred_", "lr", "weight_order"),
        rule=keymap.caffe2_to_detectron2,
        facts=BGR_MSRA,
        batch_norm_folded=True,
    ),
)


@dataclass(frozen=True)
class Found:
    """A recognised checkpoint: Detectron2-named trunk tensors (as they are in the file), and what was left out."""

    layout: Layout
    tensors: Mapping[str, Any]
    renamed: Mapping[str, str]
    dropped: tuple[str, ...]
    facts: Mapping[str, Any] | None


def recognise(content: Any) -> Found:
    """Finds the trunk in a loaded checkpoint.

    Raises:
        LayoutError: no entry of the table fits (the message shows where trunks seem to lie), or a name inside the
            trunk's prefix is neither part of a ResNet nor known to be droppable.
    """
    if isinstance(content, Mapping) and isinstance(content.get("blobs"), Mapping):
        content = content["blobs"]
    for layout in LAYOUTS:
        state = _descend(content, layout.path)
        if state is not None and layout.prefix + layout.probe in state:
            return _take(content, state, layout)
    raise LayoutError(
        "no known layout fits this checkpoint. Known: "
        + ", ".join(layout.name for layout in LAYOUTS)
        + f". {_candidates(content)}"
    )


def _descend(content: Any, path: tuple[str, ...]) -> Mapping[str, Any] | None:
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else None


def _take(content: Mapping[str, Any], state: Mapping[str, Any], layout: Layout) -> Found:
    inside = [k for k in state if k.startswith(layout.prefix) and not k.startswith(layout.drop)]
    renamed = keymap.rename(inside, lambda k: layout.rule(k[len(layout.prefix) :]))
    strangers = [k for k in inside if k not in renamed and hasattr(state[k], "shape")]
    if strangers:
        raise LayoutError(
            f"recognised as {layout.name}, but {len(strangers)} tensors under '{layout.prefix}' are no part of a "
            f"standard ResNet ({', '.join(strangers[:4])}, ...): deep stems, SE blocks and other variants are not "
            "convertible"
        )
    facts = layout.facts
    if facts is None:
        facts = content.get("metadata") or (RGB_IMAGENET if content.get("__author__") in _RGB_AUTHORS else None)
    dropped = tuple(k for k in state if k not in renamed)
    return Found(layout, {renamed[k]: state[k] for k in renamed}, renamed, dropped, facts)


_RGB_AUTHORS = ("torchvision", "MOCO")


def _candidates(content: Any) -> str:
    """Where, in a nested checkpoint, something that looks like a stem lies."""
    places: list[str] = []

    def walk(node: Any, at: str) -> None:
        if not isinstance(node, Mapping):
            return
        for key, value in node.items():
            if isinstance(value, Mapping):
                walk(value, f"{at}{key} > ")
            elif isinstance(key, str) and key.endswith(("conv1.weight", ".0.weight")):
                if getattr(value, "ndim", 0) == 4 and value.shape[1] <= 4:
                    places.append(f"{at}{key}")

    walk(content, "")
    if places:
        return f"First convolutions were seen at: {', '.join(places[:6])}"
    top = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    return f"No first convolution was found; the file holds: {top or 'nothing'}"
