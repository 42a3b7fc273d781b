"""The page of evidence: every finding with its verdict, every experiment with table, command, picture and digests."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.transfer.report import trees
from tests.transfer.report.test_judgement import CLAIM
from transfer.report.evidence import write
from transfer.trials.plan import Plan

UP = CLAIM | {"claim": "MoCo | ahead"}
ODD = CLAIM | {"claim": "`a` <b> [c", "row": CLAIM["than"], "than": CLAIM["row"]}
DOWN = CLAIM | {"claim": "it is behind", "row": CLAIM["than"], "than": CLAIM["row"]}


@pytest.fixture(scope="module")
def plans(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Plan]:
    """Two experiments; of the second nothing has run."""
    root = tmp_path_factory.mktemp("evidence")
    first = trees.plan(trees.experiment_file(root / "a", generated, findings=[UP, DOWN], title="Table: first, of all"))
    trees.fill(first)
    return [first, trees.plan(trees.experiment_file(root / "b", generated, findings=[UP], title="Second"))]


def test_the_page(plans: list[Plan], tmp_path: Path) -> None:
    found = write(plans, tmp_path / "docs" / "evidence.md")
    assert [j.verdict for j in found] == ["shows", "reversed"]
    page = (tmp_path / "docs" / "evidence.md").read_text()
    assert "1 of 2 findings show." in page and "Second" not in page
    assert "| [MoCo \\| ahead](#table-first-of-all) | Table 2 | **shows** | 56." in page
    assert re.search(r"\| \*\*reversed\*\* \| .*; too few trials \|", page)  # the reason stands where it does not show
    assert "## Table: first, of all" in page and "`python tools/reproduce.py table.yaml`; " in page
    assert "11 of 11 runs" in page and re.search(r"Config digests: all rows `[0-9a-f]{16}`\.\n", page)
    assert page.count("MoCo \\| ahead") == 1  # each finding once, at the top
    (picture,) = re.findall(r"!\[AP per trial\]\((pictures/evidence_table_bbox_AP\.svg)\)", page)
    svg = (tmp_path / "docs" / picture).read_text()
    ET.fromstring(svg)
    assert "var(" not in svg and "MoCo &lt;v2&gt;" in svg


def test_written_twice_it_is_the_same(plans: list[Plan], tmp_path: Path) -> None:
    write(plans, tmp_path / "evidence.md")
    first = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    write(plans, tmp_path / "evidence.md")
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first


def test_words_mean_themselves(generated: Path, tmp_path: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, findings=[ODD], title="A <t> | b"))
    trees.fill(plan)
    write([plan], tmp_path / "evidence.md")
    page = (tmp_path / "evidence.md").read_text()
    assert "| [\\`a\\` \\<b\\> \\[c](#a-t--b) |" in page and "## A \\<t\\> \\| b" in page
    assert "| MoCo \\<v2\\> |" in page


def test_a_record_is_not_replaced_by_nothing(
    plans: list[Plan], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (page := tmp_path / "evidence.md").write_text("made elsewhere")
    assert write(plans[1:], page) == [] and page.read_text() == "made elsewhere"
    assert "nothing has run here: not on the page" in caplog.text
