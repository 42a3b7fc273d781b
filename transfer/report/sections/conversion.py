"""Proves each conversion again from the weights that are here: tensors, features, hashes, Detectron2's check.

The converter writes a trunk only if it is proven, with facts about it beside it, but without the proof. A page must be
true of the file that the trials started from, so the proof is made from that file, in a second or two for a ResNet-50.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert.audit import Coverage
from transfer.convert.convert import PARITY_LIMIT, prove, take
from transfer.convert.sharded import sha256
from transfer.engines.select import detectron2_problem, detectron2_verify
from transfer.report.collected import ExperimentReport
from transfer.report.markup import Markup, fact, scroll, section, tag
from transfer.trials.output_folders import PRETRAINED, TRUNK
from transfer.trials.plan import Plan

logger = logging.getLogger(__name__)

DIGITS = 16  # of a hash on the page


@dataclass(frozen=True)
class Proof:
    """Holds what is true of a converted file now.

    Attributes:
        coverage: per stage, how many of the architecture's tensors are there.
        parity: stage -> largest absolute difference of its features, torchvision's network against Detectron2's names.
        output_sha256: SHA-256 of the converted file.
        source_sha256: SHA-256 of the source as it is here; None if it is gone.
        detectron2: the result of Detectron2's own checkpointer and backbone, or why they were not used.
        notes: notes on the values.
    """

    coverage: Sequence[Coverage]
    parity: Mapping[str, float]
    output_sha256: str
    source_sha256: str | None
    detectron2: str
    notes: Sequence[str] = ()

    @property
    def found(self) -> int:
        return sum(row.found for row in self.coverage)

    @property
    def expected(self) -> int:
        return sum(row.expected for row in self.coverage)


def proof(trunk: Path, source: Path | None, facts: Mapping[str, Any]) -> Proof:
    """Reads a converted file and proves it again.

    Args:
        source: the file that it was made from.
        facts: what the converter wrote beside it.

    Raises:
        CheckpointError, ValueError: the file is not here or is not what the converter wrote.
    """
    taken = take(trunk)
    parity, notes = prove(taken)
    there = source is not None and source.is_file()
    return Proof(
        taken.coverage,
        parity,
        sha256(trunk),
        sha256(source) if there and source is not None else None,
        _detectron2(trunk, facts),
        notes,
    )


def _detectron2(trunk: Path, facts: Mapping[str, Any]) -> str:
    verify = detectron2_verify()
    if verify is None:
        return f"not asked: {detectron2_problem()}"
    said = verify(trunk, facts)
    return f"yes: {'; '.join(f'{key} {fact(value)}' for key, value in said.items())}"


def conversions(plan: Plan, report: ExperimentReport) -> Markup | None:
    """Makes a card per converted trunk."""
    cards = [_card(plan, name, facts) for name, facts in report.conversions.items()]
    if not cards:
        return None
    lead = (
        "Trunks that were renamed for the detector, proven again from the files that the trials start from. The "
        "difference is the largest in a stage's features, over the largest feature, of one random input through "
        f"torchvision's network and the renamed tensors; {PARITY_LIMIT:g} is allowed."
    )
    return section("conversion", "Conversion", tag("p", lead, class_="lead"), tag("div", *cards, class_="stack"))


def _card(plan: Plan, name: str, facts: Mapping[str, Any]) -> Markup:
    trunk = plan.converted(name) / TRUNK
    row = next(row for row in plan.experiment.rows if plan.trunk_name(row) == name and (row.file or row.pretrain))
    source = row.file if row.pretrain is None else plan.pretrain_folder(row.pretrain) / PRETRAINED
    try:
        found, verdict = proof(trunk, source, facts), None
    except (CheckpointError, ValueError, KeyError, OSError) as error:
        logger.warning("the conversion '%s' is not proven in the report: %s", name, error)
        found, verdict = None, tag("p", f"Not proven here: {error}", class_="outside")
    if found is not None:
        words = f"{found.found} of {found.expected} tensors; features differ {_worst(found)}"
        verdict = tag("p", tag("b", "Proven. ", class_="better"), words + ".")
    every = tag(
        "details", tag("summary", "All that the converter wrote"), _pairs({k: fact(v) for k, v in facts.items()})
    )
    stages = _stages(found) if found is not None else None
    body = tag("div", stages, tag("div", _pairs(_facts(facts, found)), every), class_="halves")
    return tag("div", tag("h3", name), verdict, body, class_="card")


def _gap(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0"


def _worst(found: Proof) -> str:
    worst = max(found.parity.values())
    return f"by at most {worst:.1e}" if worst else "in no bit"


def _stages(found: Proof) -> Markup:
    heads = ("Stage", "Tensors", "Expected", "Difference")
    head = tag("tr", *(tag("th", text, scope="col", class_="number" if i else None) for i, text in enumerate(heads)))
    body = []
    for row in found.coverage:
        gap = _gap(found.parity[row.stage]) if row.stage in found.parity else "–"
        cells = [tag("td", text, class_="number") for text in (row.found, row.expected, gap)]
        body.append(tag("tr", tag("th", row.stage, scope="row"), *cells))
    total = [
        tag("td", text, class_="number") for text in (found.found, found.expected, _gap(max(found.parity.values())))
    ]
    body.append(tag("tr", tag("th", "all", scope="row"), *total, class_="total"))
    return scroll(tag("table", tag("thead", head), tag("tbody", *body), class_="tight"), "Tensors per stage")


def _facts(facts: Mapping[str, Any], found: Proof | None) -> dict[str, object]:
    """Returns what a reader asks first: source, target, how images must be given, and Detectron2's verdict."""
    recorded = facts.get("source_sha256")
    layout = fact(facts.get("layout")) + (f", trunk '{facts['trunk']}'" if facts.get("trunk") else "")
    source: list[object] = [fact(facts.get("source")), tag("small", f"layout {layout}")]
    if recorded:
        state = None
        if found is not None:
            now = found.source_sha256
            state = " (gone since)" if now is None else " (unchanged)" if now == recorded else " (changed since)"
        source.append(tag("small", "sha256 ", tag("code", str(recorded)[:DIGITS]), state))
    output: list[object] = [TRUNK]
    if found is not None:
        output.append(tag("small", "sha256 ", tag("code", found.output_sha256[:DIGITS])))
    rule = facts.get("stride_in_1x1")
    stride = "stride rule not stated" if rule is None else f"stride in the {'1x1' if rule else '3x3'} convolutions"
    images = (
        f"{fact(facts.get('channel_order'))}; mean {fact(facts.get('pixel_mean'))}; std {fact(facts.get('pixel_std'))}"
    )
    out: dict[str, object] = {
        "architecture": f"{fact(facts.get('arch'))}, {stride}",
        "source": source,
        "output": output,
        "images": images,
    }
    if found is not None:
        out["Detectron2 loads it"] = found.detectron2
        if found.notes:
            out["notes"] = "; ".join(found.notes)
    return out


def _pairs(values: Mapping[str, object]) -> Markup:
    pairs = []
    for key, value in values.items():
        children = value if isinstance(value, list) else [value]
        pairs += [tag("dt", key.replace("_", " ")), tag("dd", *children)]
    return tag("dl", *pairs)
