"""The proof on the page is of the file that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.checkpoint import sha256
from tests.transfer.report import trees
from tests.transfer.report.test_neighbours import write_trunk
from tests.transfer.report.test_report import Page
from transfer.report.collect import collect
from transfer.report.sections.conversion import conversions, proof
from transfer.trials.output_folders import PRETRAINED
from transfer.trials.plan import Plan


@pytest.fixture
def plan(tmp_path: Path, generated: Path) -> Plan:
    return trees.plan(trees.experiment_file(tmp_path, generated, trials=1))


def text(plan: Plan) -> str:
    section = conversions(plan, collect(plan))
    assert section is not None
    return Page(section).text


def test_tensors_differences_and_hashes_are_shown(plan: Plan) -> None:
    trunk = write_trunk(plan)
    source = plan.pretrain_folder("moco") / PRETRAINED
    said = text(plan)
    assert "Proven. 120 of 120 tensors" in said and "res5 30 30" in said and "stem 6 6" in said
    assert sha256(trunk)[:16] in said and sha256(source)[:16] in said and "(unchanged)" in said
    assert "Detectron2 loads it" in said and ("not asked: " in said or "yes: " in said)
    found = proof(trunk, source, collect(plan).conversions["moco"])
    assert set(found.parity) == {"res2", "res3", "res4", "res5"} and max(found.parity.values()) <= 1e-4


def test_a_source_that_changed_or_is_gone_is_said(plan: Plan) -> None:
    write_trunk(plan)
    source = plan.pretrain_folder("moco") / PRETRAINED
    source.write_bytes(b"other")
    assert "(changed since)" in text(plan)
    source.unlink()
    assert "(gone since)" in text(plan)


def test_weights_that_are_damaged_or_not_here_prove_nothing(plan: Plan) -> None:
    trunk = write_trunk(plan)
    trunk.write_bytes(trunk.read_bytes()[:-100])
    assert "Not proven here: " in text(plan) and "Proven." not in text(plan)
    trunk.unlink()
    assert "does not exist" in text(plan)
