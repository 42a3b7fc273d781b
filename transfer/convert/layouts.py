"""Recognises the layouts of ResNet checkpoints, by a table of where each project puts its trunk and which one counts.

A layout is recognised by structure, never by file name. To add one, add an entry to `LAYOUTS` and a test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pretrain.runtime.errors import ExpectedError
from transfer.convert import variants
from transfer.convert.architecture import Architecture
from transfer.convert.facts import (
    BGR_FAIR,
    BGR_MSRA,
    RGB_IMAGENET,
    by_author,
    configured_facts,
    stated_facts,
    statistics_folded,
)
from transfer.convert.trunks import Trunk, find_trunks, tensor_names


class LayoutError(ExpectedError, ValueError):
    """A checkpoint of no known layout, with several trunks to choose from, or with a ResNet of another kind."""


Names = tuple[str | tuple[str, ...], ...]  # all of them; of a tuple within, one


@dataclass(frozen=True)
class Layout:
    """Describes one layout. Places are written `keys > to the state dict > prefix.`, without wrappers like `module.`.

    Attributes:
        name: what the report calls it.
        at: places of the trunk that this layout means.
        over: places of other trunks in the same file that it is preferred to.
        has: names that must begin some tensor of the same state dict, without wrappers.
        top: keys that the file must have at its top.
        naming: key of `trunks.NAMINGS`.
        facts: channel order, mean, std and stride rule of weights in this layout. None if the layout does not tell
            which project trained them: then the file must say, or the facts stay unknown.
        batch_norm_folded: whether running statistics are folded into scale and shift (Caffe2 files).
        refused: why such a file cannot be converted.
    """

    name: str
    at: tuple[str, ...]
    over: tuple[str, ...] = ()
    has: Names = ()
    top: Names = ()
    naming: str = "torchvision"
    facts: Mapping[str, Any] | None = None
    batch_norm_folded: bool = False
    refused: str | None = None

    def fits(self, trunk: Trunk, content: Mapping[str, Any], lesser: bool = False) -> bool:
        """Returns whether this layout means a trunk; with `lesser`, whether it is one that the layout leaves."""
        return (
            trunk.where in (self.over if lesser else self.at)
            and trunk.naming == self.naming
            and all(any(key in content for key in _either(keys)) for keys in self.top)
            and all(any(k.startswith(name) for k in trunk.names) for name in self.has)
        )


def _either(keys: str | tuple[str, ...]) -> tuple[str, ...]:
    return keys if isinstance(keys, tuple) else (keys,)


def _rgb(name: str, *at: str, **kwargs: Any) -> Layout:
    return Layout(name, at, facts=RGB_IMAGENET, **kwargs)


def _places(roots: Sequence[str], *prefixes: str) -> tuple[str, ...]:
    return tuple(root + prefix for root in roots for prefix in prefixes)


_SD = "state_dict > "
_ROOTS = (_SD, "", "model > ")
_VISSL = "classy_state_dict > base_model > model > trunk > "
_AVERAGES = ("ema_state_dict > backbone.", _SD + "momentum_backbone.", _SD + "backbone_momentum.", "backbone_momentum.")

LAYOUTS = (  # the first that fits counts, so what has more marks stands first
    _rgb("MoCo v1/v2", *_places((*_ROOTS, "module > "), "encoder_q."),
         over=_places((*_ROOTS, "module > "), "encoder_k.")),
    _rgb("MoCo v3", _SD + "base_encoder.", over=(_SD + "momentum_encoder.",)),
    _rgb("solo-learn, older", _SD + "encoder.", over=(_SD + "momentum_encoder.",), has=("classifier.",),
         top=("hyper_parameters",)),
    _rgb("SimSiam", _SD + "encoder.", has=("predictor.",)),
    _rgb("PixPro / SoCo", "model > encoder.", over=("model > encoder_k.",), has=("encoder_k.",)),
    _rgb("PyContrast", "model > encoder.", over=("model_ema > encoder.",), top=(("contrast", "model_ema"),)),
    Layout("CMC (PyContrast)", ("model > encoder1.",),
           over=("model > encoder2.", "model_ema > encoder1.", "model_ema > encoder2."),
           refused="its two trunks see the L and the ab channels of Lab images, so neither fits a detector's RGB or "
           "BGR"),
    _rgb("SwAV", "", "state_dict", has=("prototypes",)),
    _rgb("DINO", "teacher > backbone.", over=("student > backbone.",)),
    _rgb("Barlow Twins", "model > backbone.", has=("projector.", "bn.")),
    _rgb("VICReg", "model > backbone.", has=("projector.",)),
    _rgb("OpenSelfSup BYOL", _SD + "backbone.", _SD + "online_net.0.", over=(_SD + "target_net.0.",),
         has=("online_net.0.",)),
    _rgb("OpenSelfSup / DenseCL", _SD + "backbone.", _SD + "encoder_q.0.", over=(_SD + "encoder_k.0.",),
         has=("encoder_q.0.",)),
    Layout("extracted, author named", ("state_dict",), top=("author",)),
    Layout("OpenMMLab detector", (_SD + "backbone.",), over=("ema_state_dict > backbone.",), top=("meta",),
           has=(("rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "panoptic_head.", "decode_head."),)),
    _rgb("mmselfsup / mmpretrain", _SD + "backbone.", top=("meta",),
         has=(("neck.", "head.", "encoder_k.", "target_net."),),
         over=("ema_state_dict > backbone.", *_places((_SD,), "encoder_k.0.", "target_net.0.", "momentum_encoder.0."))),
    _rgb("VISSL", *_places((_VISSL, "model_state_dict > ", ""), "_feature_blocks.", "base_model._feature_blocks."),
         over=("classy_state_dict > ema_model > model > trunk > _feature_blocks.",
               *_places(("loss > ", "classy_state_dict > loss > "), *(f"{name}.trunk._feature_blocks." for name in
                        ("moco_encoder", "momentum_encoder", "momentum_teacher"))))),
    _rgb("lightly benchmark", _SD + "backbone.", has=("online_classifier.",),  # its DINO calls the teacher `backbone`
         over=_places((_SD,), "key_backbone.", "backbone_momentum.", "teacher_backbone.", "student_backbone.")),
    _rgb("lightly example", *_places((_SD, ""), "backbone."), naming="sequential", has=("projection_head",),
         over=_places((_SD, ""), "backbone_momentum.")),
    _rgb("lightly example of DINO", *_places((_SD, ""), "teacher_backbone."), naming="sequential",
         has=("student_backbone.",), over=_places((_SD, ""), "student_backbone.")),
    Layout("a teacher and a student", _places((_SD, ""), "teacher_backbone."), has=("student_backbone.",),
           over=_places((_SD, ""), "student_backbone.")),
    _rgb("solo-learn", _SD + "backbone.", over=(_SD + "momentum_backbone.",), has=("classifier.",),
         top=("hyper_parameters",)),
    Layout("BYOL (bolts)", (_SD + "online_network.encoder.",), over=(_SD + "target_network.encoder.",)),
    Layout("BYOL (lucidrains)", _places(("", _SD), "online_encoder.net.", "learner.online_encoder.net."),
           over=_places(("", _SD), "target_encoder.net.", "learner.target_encoder.net.")),
    _rgb("MoCo linear probe", "state_dict", top=("best_acc1",)),
    _rgb("timm", "state_dict", over=("state_dict_ema",), top=("arch",)),
    _rgb("torchvision", ""),
    _rgb("torchvision training", "model", over=("model_ema",), top=(("args", "lr_scheduler", "model_ema"),)),
    Layout("a bare trunk", ("state_dict", "model"), over=("model_ema", "state_dict_ema")),
    Layout("a trunk named backbone", _places(_ROOTS, "backbone."), over=_AVERAGES),
    Layout("a Sequential named backbone", _places(_ROOTS, "backbone."), naming="sequential", over=_AVERAGES),
    Layout("a trunk named encoder", ("model > encoder.", "encoder.")),
    Layout("Detectron2 trunk", ("model", ""), naming="detectron2"),
    Layout("Caffe2 (MSRA)", ("", "blobs"), naming="caffe2", facts=BGR_MSRA, batch_norm_folded=True),
)  # fmt: skip
DETECTORS = (
    Layout("Detectron2 detector", _places(("model > ", ""), "backbone.", "backbone.bottom_up."), naming="detectron2"),
)


@dataclass(frozen=True)
class Found:
    """Holds a recognised checkpoint: Detectron2-named trunk tensors (as they are in the file), and what was left out.

    Attributes:
        renamed: name in the file's state dict -> Detectron2's name.
        dropped: names of that state dict that do not belong to the trunk: heads, queues, other encoders.
        trunk: where the trunk is in the file.
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

    If a file holds several trunks, its layout says which of them it means and which it leaves (query over key, teacher
    over student where both are backbones, online over target, backbone over its moving average). Several names of one
    module count once. Among any other trunks the caller must choose with `trunk`.

    Args:
        trunk: place of the trunk to take, as the error for ambiguous files shows it; `encoder_k.` is enough for
            `state_dict > module.encoder_k.`.
        detectors: whether to take the trunk of a trained Detectron2 detector, too.

    Raises:
        LayoutError: no entry of the table fits (the message shows where trunks seem to lie), several do, or the trunk
            is no plain ResNet.
    """
    trunks = find_trunks(content)
    if not trunks and variants.flattened(tensor_names(content)):
        raise LayoutError(f"no known layout fits this checkpoint: {variants.FLATTENED}")
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
        + "; ".join(f"--trunk '{t.choice}' ({len(t.renamed)} tensors)" for t in trunks[:8])
        + ". Choose one with --trunk"
    )


def _layout(trunk: Trunk, content: Any, table: Sequence[Layout]) -> Layout | None:
    return next((layout for layout in table if layout.fits(trunk, content)), None)


def _layout_of(trunk: Trunk, content: Any, table: Sequence[Layout]) -> Layout:
    """Returns the layout of a trunk that was asked for; one that a layout leaves has the facts of that layout."""
    if (layout := _layout(trunk, content, table)) is not None:
        return layout
    lesser = next((entry for entry in table if entry.fits(trunk, content, lesser=True)), None)
    name = f"{lesser.name}, its other trunk" if lesser else "unlisted layout"
    facts = lesser.facts if lesser else None
    return Layout(name, (trunk.where,), naming=trunk.naming, facts=facts, batch_norm_folded=trunk.naming == "caffe2",
                  refused=lesser.refused if lesser else None)  # fmt: skip


def _named(trunks: Sequence[Trunk], wanted: str) -> Trunk:
    """Returns the one trunk that the words of --trunk mean."""
    wanted = wanted.strip()
    for matches in (
        [t for t in trunks if wanted in (t.raw, t.where, t.choice)],
        [t for t in trunks if wanted.rstrip(".") in (t.raw.rstrip("."), t.where.rstrip("."))],
        [t for t in trunks if _ends(t.raw, wanted) or _ends(t.where, wanted)],
    ):
        if len(matches) == 1:
            return matches[0]
    listed = "; ".join(f"'{t.choice}'" for t in trunks[:8]) or "none"
    raise LayoutError(f"--trunk '{wanted}' names no single trunk of this checkpoint; it holds: {listed}")


def _ends(place: str, wanted: str) -> bool:
    return re.search(r"(^|[ .])" + re.escape(wanted.rstrip(".")) + r"\.?$", place) is not None


def _take(content: Mapping[str, Any], trunk: Trunk, layout: Layout, others: list[tuple[Trunk, str]]) -> Found:
    if layout.refused:
        raise LayoutError(f"recognised as {layout.name}, which cannot be converted: {layout.refused}")
    within, beside = trunk.strangers
    reason = variants.by_name(within, beside) or variants.by_stem(trunk.tensors)
    reason = reason or variants.by_arch(content.get("arch"))
    reason = reason or (None if layout.batch_norm_folded else variants.by_norm(trunk.tensors))
    if reason:
        raise LayoutError(f"recognised as {layout.name}, but {reason}: not convertible")
    if within:
        named = ", ".join(within[:4]) + (", ..." if len(within) > 4 else "")
        raise LayoutError(
            f"recognised as {layout.name}, but {len(within)} tensors within the modules of the trunk at "
            f"'{trunk.choice}' are no part of a standard ResNet ({named}): not convertible"
        )
    same = [t.prefix for t, _ in others if t.state is trunk.state and t.prefix != trunk.prefix]
    elsewhere = tuple(prefix.removeprefix(trunk.prefix) for prefix in same if prefix.startswith(trunk.prefix))
    plain = trunk.naming in ("torchvision", "sequential")  # what stands beside the other namings' trunks is a detector
    if plain and (unknown := variants.no_heads(n for n in beside if not n.startswith(elsewhere))):
        raise LayoutError(
            f"recognised as {layout.name}, but beside its trunk there is {', '.join(unknown[:4])}: if features pass "
            "through it, a detector's ResNet computes something else. If it is a head, save the file without the "
            f"tensors whose names begin with '{trunk.prefix}{unknown[0]}'"
        )
    names = list(trunk.renamed.values())
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise LayoutError(f"recognised as {layout.name}, but two of its tensors would become {twice}")
    facts = stated_facts(content)
    if facts is None:
        if not layout.batch_norm_folded and statistics_folded(trunk.tensors):
            layout = replace(layout, name=f"{layout.name}, statistics folded", facts=None, batch_norm_folded=True)
        facts = configured_facts(content) or layout.facts or (None if layout.batch_norm_folded else by_author(content))
    dropped = tuple(k for k in trunk.state if k not in trunk.renamed)
    return Found(layout, trunk.tensors, trunk.renamed, dropped, facts, trunk.raw,
                 tuple(f"{t.raw or 'the top'} ({why})" for t, why in others))  # fmt: skip


def facts_of(found: Found, architecture: Architecture) -> Mapping[str, Any] | None:
    """Returns channel order, mean, std and stride rule of a trunk; None if neither the file nor its layout states them.

    MSRA published no ResNeXt, so a Caffe2 file with groups is FAIR's, trained with other statistics.
    """
    return BGR_FAIR if found.layout.naming == "caffe2" and architecture.groups > 1 else found.facts


def _candidates(content: Any, trunks: Sequence[Trunk]) -> str:
    if trunks:
        whole = [t for t in trunks if "stem.conv1.weight" in t.renamed.values()]
        seen = "First convolutions" if whole else "Blocks of ResNets, but no first convolution,"
        return (
            f"{seen} were seen at: {', '.join(t.first for t in (whole or trunks)[:6])}. "
            f"If one is the trunk, name it: --trunk '{(whole or trunks)[0].choice}'"
        )
    top = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    return f"No trunk was found; the file holds: {top[:300] or 'nothing'}"
