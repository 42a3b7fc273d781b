"""How ResNet checkpoints are laid out: a table of where each project puts its trunk, and which of several counts.

A layout is recognised by structure, never by file name. To add one, add an entry to `LAYOUTS` and a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.convert import variants
from transfer.convert.architecture import Architecture
from transfer.convert.trunks import NAMINGS, Trunk, find_trunks, is_tensor

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


class LayoutError(ValueError):
    """A checkpoint whose layout is not in the table, that holds several trunks alike, or a ResNet of another kind."""


@dataclass(frozen=True)
class Layout:
    """One entry. Places are written as `keys > to the state dict > prefix.`, wrappers such as `module.` left out.

    Attributes:
        name: what the report calls it.
        at: places of the trunk that this layout means.
        over: places of other trunks in the same file that it is preferred to.
        has: names that must begin some tensor of the same state dict, wrappers left out.
        top: keys that the file must have at its top.
        inside: what else stands under the trunk's prefix and may be dropped.
        naming: key of `trunks.NAMINGS`.
        facts: channel order, mean, std and stride rule of weights in this layout; None where the file has to say.
        batch_norm_folded: whether running statistics are folded into scale and shift (Caffe2 files).
        refused: why such a file cannot be converted.
    """

    name: str
    at: tuple[str, ...]
    over: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    inside: tuple[str, ...] = ("fc.",)
    naming: str = "torchvision"
    facts: Mapping[str, Any] | None = None
    batch_norm_folded: bool = False
    refused: str | None = None

    def fits(self, trunk: Trunk, content: Mapping[str, Any]) -> bool:
        return (
            trunk.where in self.at
            and trunk.naming == self.naming
            and all(key in content for key in self.top)
            and all(any(k.removeprefix(trunk.wrapper).startswith(name) for k in trunk.state) for name in self.has)
        )


def _rgb(name: str, *at: str, **kwargs: Any) -> Layout:
    return Layout(name, at, facts=RGB_IMAGENET, **kwargs)


_SD = "state_dict > "
_VISSL = "classy_state_dict > base_model > model > trunk > "
_CLASSIFIERS = ("fc.", "head.", "classifier.", "linear.")

LAYOUTS = (  # the first that fits counts, so what has more marks stands first
    _rgb("MoCo v1/v2", _SD + "encoder_q.", over=(_SD + "encoder_k.",)),
    _rgb("MoCo v3", _SD + "base_encoder.", over=(_SD + "momentum_encoder.",)),
    _rgb("SimSiam", _SD + "encoder.", has=("predictor.",)),
    _rgb("PyContrast", "model > encoder.", over=("model_ema > encoder.",)),
    _rgb("CMC (PyContrast)", "model > encoder1.", over=("model > encoder2.",) + tuple(
        f"model_ema > encoder{i}." for i in (1, 2)), refused="its two trunks see the L and the ab channels of "
        "Lab images, so neither fits a detector's RGB or BGR"),
    _rgb("SwAV", "", "state_dict", has=("prototypes",), inside=("fc.", "projection_head.", "prototypes")),
    _rgb("DINO", "teacher > backbone.", over=("student > backbone.",)),
    _rgb("Barlow Twins", "model > backbone.", has=("projector.", "bn.")),
    _rgb("VICReg", "model > backbone.", has=("projector.",)),
    _rgb("OpenSelfSup BYOL", _SD + "backbone.", _SD + "online_net.0.", over=(_SD + "target_net.0.",),
         has=("online_net.0.",)),
    _rgb("OpenSelfSup / DenseCL", _SD + "backbone.", _SD + "encoder_q.0.", over=(_SD + "encoder_k.0.",),
         has=("encoder_q.0.",)),
    _rgb("DenseCL, extracted", "state_dict", top=("author",)),
    _rgb("mmselfsup / mmpretrain", _SD + "backbone.", top=("meta",),
         over=(_SD + "encoder_k.0.", _SD + "encoder_k.module.0.", _SD + "target_net.0.", _SD + "target_net.module.0.")),
    _rgb("VISSL", *(f"{root}{prefix}_feature_blocks." for root in (_VISSL, "model_state_dict > ", "")
                    for prefix in ("", "base_model."))),
    _rgb("lightly benchmark", _SD + "backbone.", has=("online_classifier.",), over=tuple(
        f"{_SD}{name}." for name in ("key_backbone", "backbone_momentum", "teacher_backbone", "momentum_backbone"))),
    _rgb("lightly example", _SD + "backbone.", "backbone.", naming="sequential",
         over=(_SD + "backbone_momentum.", "backbone_momentum.")),
    _rgb("solo-learn", _SD + "backbone.", over=(_SD + "momentum_backbone.",), inside=_CLASSIFIERS,
         top=("state_dict", "hyper_parameters")),
    _rgb("solo-learn, older", _SD + "encoder.", over=(_SD + "momentum_encoder.",), top=("hyper_parameters",)),
    _rgb("BYOL (bolts)", _SD + "online_network.encoder.", over=(_SD + "target_network.encoder.",)),
    _rgb("MoCo linear probe", "state_dict", top=("best_acc1",)),
    _rgb("timm", "state_dict", over=("state_dict_ema",), top=("arch", "state_dict_ema")),
    _rgb("torchvision", "", "state_dict", "model", over=("model_ema",), inside=_CLASSIFIERS),
    _rgb("a trunk named backbone", _SD + "backbone.", "backbone.", "model > backbone."),
    Layout("Detectron2 trunk", ("model", ""), naming="detectron2", inside=("fc.", "stem.fc.", "linear.")),
    Layout("Caffe2 (MSRA)", ("", "blobs"), naming="caffe2", facts=BGR_MSRA, batch_norm_folded=True,
           inside=("fc1000_", "pred_", "lr", "weight_order")),
)  # fmt: skip
DETECTORS = (
    Layout("Detectron2 detector", ("model > backbone.", "model > backbone.bottom_up."), naming="detectron2",
           inside=("reduce.", "fpn_", "top_block.")),
)  # fmt: skip
_UNLISTED_INSIDE = (*_CLASSIFIERS, "projector.", "projection_head.", "prototypes", "predictor.", "neck.", "queue",
                    "online_classifier.", "reduce.", "fpn_", "top_block.", "stem.fc.")  # fmt: skip
_RGB_AUTHORS = ("torchvision", "MOCO")


@dataclass(frozen=True)
class Found:
    """A recognised checkpoint: Detectron2-named trunk tensors (as they are in the file), and what was left out.

    Attributes:
        renamed: name in the file's state dict -> Detectron2's name.
        dropped: names of that state dict that are not the trunk's.
        trunk: where it is in the file.
        others: where other trunks are, and why they were not taken.
    """

    layout: Layout
    tensors: Mapping[str, Any]
    renamed: Mapping[str, str]
    dropped: tuple[str, ...]
    facts: Mapping[str, Any] | None
    trunk: str = ""
    others: tuple[str, ...] = ()


def recognise(content: Any, trunk: str | None = None, detectors: bool = False) -> Found:
    """Finds the trunk in a loaded checkpoint.

    The rule for files with several: a layout's entry says which of its trunks it means and which it leaves (query over
    key, teacher over student where both are backbones, online over target, backbone over its moving average). Second
    names of one module count once. Whatever else is there must be chosen from with `trunk`.

    Args:
        trunk: place of the trunk to take, as the error for ambiguous files shows it; `encoder_k.` will do for
            `state_dict > module.encoder_k.`.
        detectors: also take the trunk of a trained Detectron2 detector.

    Raises:
        LayoutError: no entry of the table fits (the message shows where trunks seem to lie), several do, or the trunk
            is no plain ResNet.
    """
    trunks = find_trunks(content)
    table = (*LAYOUTS, *DETECTORS) if detectors else LAYOUTS
    if trunk is not None:
        taken = _named(trunks, trunk)
        layout = _layout_of(taken, content, table)
        return _take(content, taken, layout, [(t, "not asked for") for t in trunks if t is not taken])
    fitting = [(t, layout) for t in trunks for layout in [_layout(t, content, table)] if layout is not None]
    if not fitting:
        raise LayoutError(f"no known layout fits this checkpoint. {_candidates(content, trunks)}")
    for taken, layout in fitting:
        rest = [t for t in trunks if t is not taken and t.where not in layout.over and not taken.equals(t)]
        if not rest:
            why = {True: "left, as the rule says", False: "the same values"}
            return _take(content, taken, layout, [(t, why[t.where in layout.over]) for t in trunks if t is not taken])
    raise LayoutError(
        f"this checkpoint holds {len(trunks)} trunks, and no rule says which: "
        + "; ".join(f"--trunk '{t.raw or NAMINGS[t.naming].stem}' ({len(t.renamed)} tensors)" for t in trunks[:8])
        + ". Choose one with --trunk"
    )


def _layout(trunk: Trunk, content: Any, table: Sequence[Layout]) -> Layout | None:
    return next((layout for layout in table if layout.fits(trunk, content)), None)


def _layout_of(trunk: Trunk, content: Any, table: Sequence[Layout]) -> Layout:
    """The layout of a trunk that was asked for; one that is the lesser trunk of a layout shares its facts."""
    if (layout := _layout(trunk, content, table)) is not None:
        return layout
    lesser = next((entry for entry in table if trunk.where in entry.over and entry.naming == trunk.naming), None)
    name = f"{lesser.name}, its other trunk" if lesser else "unlisted layout"
    facts = lesser.facts if lesser else None
    return Layout(name, (trunk.where,), inside=_UNLISTED_INSIDE, naming=trunk.naming, facts=facts,
                  batch_norm_folded=trunk.naming == "caffe2", refused=lesser.refused if lesser else None)  # fmt: skip


def _named(trunks: Sequence[Trunk], wanted: str) -> Trunk:
    """The one trunk that the words of --trunk mean."""
    wanted = wanted.strip()
    for matches in (
        [t for t in trunks if wanted in (t.raw, t.where, NAMINGS[t.naming].stem if not t.raw else t.raw)],
        [t for t in trunks if wanted.rstrip(".") in (t.raw.rstrip("."), t.where.rstrip("."))],
        [t for t in trunks if _ends(t.raw, wanted) or _ends(t.where, wanted)],
    ):
        if len(matches) == 1:
            return matches[0]
    listed = "; ".join(f"'{t.raw or NAMINGS[t.naming].stem}'" for t in trunks[:8]) or "none"
    raise LayoutError(f"--trunk '{wanted}' names no single trunk of this checkpoint; it holds: {listed}")


def _ends(place: str, wanted: str) -> bool:
    return re.search(r"(^|[ .])" + re.escape(wanted.rstrip(".")) + r"\.?$", place) is not None


def _take(content: Mapping[str, Any], trunk: Trunk, layout: Layout, others: list[tuple[Trunk, str]]) -> Found:
    if layout.refused:
        raise LayoutError(f"recognised as {layout.name}, which cannot be converted: {layout.refused}")
    beside = tuple(t.prefix for t, _ in others if t.state is trunk.state and len(t.prefix) > len(trunk.prefix))
    inside = [k for k in trunk.state if k.startswith(trunk.prefix) and is_tensor(trunk.state[k])]
    strangers = [
        k[len(trunk.prefix) :]
        for k in inside
        if k not in trunk.renamed and not k[len(trunk.prefix) :].startswith(layout.inside) and not k.startswith(beside)
    ]
    if reason := variants.by_stem(trunk.tensors) or variants.by_name(strangers):
        raise LayoutError(f"recognised as {layout.name}, but {reason}: not convertible")
    if strangers:
        raise LayoutError(
            f"recognised as {layout.name}, but {len(strangers)} tensors under '{trunk.prefix}' are no part of a "
            f"standard ResNet ({', '.join(strangers[:4])}, ...): deep stems, SE blocks and other variants are not "
            "convertible"
        )
    names = list(trunk.renamed.values())
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise LayoutError(f"recognised as {layout.name}, but two of its tensors would become {twice}")
    facts = stated_facts(content) or layout.facts
    if facts is None and content.get("__author__") in _RGB_AUTHORS:
        facts = RGB_IMAGENET
    dropped = tuple(k for k in trunk.state if k not in trunk.renamed)
    return Found(layout, trunk.tensors, trunk.renamed, dropped, facts, trunk.raw,
                 tuple(f"{t.raw or 'the top'} ({why})" for t, why in others))  # fmt: skip


def stated_facts(content: Any) -> Mapping[str, Any] | None:
    """Facts that this converter wrote into a file, in any of its forms; None without, or if they are not facts."""
    facts = content.get("metadata") if isinstance(content, Mapping) else None
    if facts is None:
        carried = getattr(content, "_metadata", None)
        facts = carried.get("moco-transfer") if isinstance(carried, Mapping) else None
    if isinstance(facts, str):
        try:
            facts = json.loads(facts)
        except (ValueError, RecursionError):
            return None
    return facts if _are_facts(facts) else None


def facts_of(found: Found, architecture: Architecture) -> Mapping[str, Any] | None:
    """Channel order, mean, std and stride rule of a recognised trunk; None if neither file nor layout says them.

    MSRA published no ResNeXt: a Caffe2 file with groups is FAIR's, trained on other statistics.
    """
    return BGR_FAIR if found.layout.naming == "caffe2" and architecture.groups > 1 else found.facts


def _are_facts(facts: Any) -> bool:
    def three(values: Any) -> bool:
        return values is None or (
            isinstance(values, (list, tuple)) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
        )

    return (
        isinstance(facts, Mapping)
        and facts.get("channel_order") in ("RGB", "BGR", None)
        and isinstance(facts.get("stride_in_1x1"), bool)
        and three(facts.get("pixel_mean"))
        and three(facts.get("pixel_std"))
    )


def _candidates(content: Any, trunks: Sequence[Trunk]) -> str:
    if trunks:
        return (
            f"First convolutions were seen at: {', '.join(t.first for t in trunks[:6])}. "
            f"If one is the trunk, name it: --trunk '{trunks[0].raw}'"
        )
    top = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    return f"No trunk was found; the file holds: {top[:300] or 'nothing'}"
