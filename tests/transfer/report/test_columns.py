"""A table with columns: a probe beside a fine-tuning, rows that lack a column, rows that are published only."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.runtime.config import ConfigError
from pretrain.runtime.result import RunResult
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.report.collect import collect
from transfer.report.latex import table
from transfer.report.markup import Markup, prefixed
from transfer.report.report import write_report
from transfer.report.schedules import write_comparison
from transfer.report.sections.hours import spent
from transfer.report.sections.rerun import commands
from transfer.report.table_files import markdown, to_csv, to_json
from transfer.report.tables import text
from transfer.trials.plan import Plan
from transfer.trials.run import trial_folder

ROWS = [
    {"name": "supervised", "weights": None, "columns": {"kNN": None},
     "published": {"kNN": {"knn/acc1": 76.5}, "VOC": {"AP50": 81.3, "AP": 53.5}}},
    {"name": "MoCo <v2>", "weights": {"pretrain": "moco"},
     "published": {"kNN": {"knn/acc1": "fail"}, "VOC": {"AP50": 81.5}}},
    {"name": "Jigsaw", "published": {"VOC": {"AP50": 61.4}}},
]  # fmt: skip


def experiment_file(root: Path, data: Path, **changes: Any) -> Path:
    file = trees.experiment_file(root, data)
    content = yaml.safe_load(file.read_text())
    transfer = content.pop("transfer")
    del content["trials"]
    content["columns"] = {
        "kNN": {"probe": {"protocol": "knn", "opts": ["--train", str(data), "--val", str(data)]}, "trials": 2},
        "VOC": {"transfer": transfer, "trials": 3, "metrics": ["AP50", "AP"], "source": "the VOC table"},
    }
    file.write_text(yaml.safe_dump(content | {"rows": ROWS} | changes, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Plan:
    plan = trees.plan(experiment_file(tmp_path_factory.mktemp("columns"), generated))
    trees.fill(plan)
    knn, moco = plan.experiment.columns[0], plan.experiment.rows[1]
    for seed in knn.seeds:
        result = RunResult("knn", "knn", 0, "d", weights_sha256="ab" * 32, metrics={"acc1": 50.0 + seed})
        result.save(trial_folder(plan.row_folder(knn, moco), seed))
    return plan


def test_one_pretraining_serves_all_columns(plan: Plan) -> None:
    names = [stage.name for stage in plan.stages()]
    assert names[:2] == ["pre-train 'moco'", "convert 'moco'"]
    assert [name for name in names if "kNN" in name] == [f"kNN: knn of 'MoCo <v2>', seed {seed}" for seed in (1, 2)]
    assert len(names) == 4 + 2 * 3 and sum("pre-train" in name for name in names) == 1
    folders = {stage.folder.relative_to(plan.experiment.output).as_posix() for stage in plan.stages()}
    assert {"rows/knn/knn/moco-v2/seed_1", "rows/voc/torchvision/supervised/seed_3"} <= folders


def test_anew_pretrains_for_every_seed_of_that_column(tmp_path: Path, generated: Path) -> None:
    file = experiment_file(tmp_path, generated)
    content = yaml.safe_load(file.read_text())
    content["columns"]["kNN"]["anew"] = True
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    plan = trees.plan(file)
    names = [stage.name for stage in plan.stages() if stage.kind == "pretrain"]
    assert names == ["pre-train 'moco'", "pre-train 'moco', seed 1", "pre-train 'moco', seed 2"]
    assert plan.pretraining_seeds("moco") == [None, 1, 2]


def test_values_of_both_columns(plan: Plan) -> None:
    report = collect(plan)
    knn, voc = report.columns
    assert [row.name for row in knn.rows] == [row.name for row in voc.rows] == ["supervised", "MoCo <v2>", "Jigsaw"]
    assert [row.is_run for row in knn.rows] == [False, True, False] and len(voc.run) == 2
    moco = knn.rows[1]
    assert moco.values("knn/acc1") == (51.0, 52.0) and moco.results[0].weights_sha256 == "ab" * 32
    assert (knn.baseline.name, voc.baseline.name) == ("MoCo <v2>", "supervised")
    assert not knn.unfinished and not voc.unfinished
    names = ["pre-training 'moco'", "kNN: MoCo <v2>", "VOC: supervised", "VOC: MoCo <v2>"]
    assert [line.name for line in spent(plan, report)] == names


def test_text_has_a_heading_per_column(plan: Plan) -> None:
    title, *rest = text(collect(plan)).splitlines()
    lines = rest[rest.index("") + 1 :]
    heads, metrics = lines[0], lines[1]
    assert heads.split() == ["kNN", "VOC"] and metrics.split() == ["n", "kNN", "top-1", "n", "AP50", "AP"]
    assert heads.index("VOC") == metrics.index("n", metrics.index("n") + 1) and heads.index("kNN") == metrics.index("n")
    published = {a: b for a, b in zip(lines, lines[1:], strict=False) if b.startswith("  published")}
    assert [line.split()[0] for line in published] == ["supervised", "MoCo", "Jigsaw"]
    assert "fail" in published[next(k for k in published if k.startswith("MoCo"))]
    assert published["Jigsaw"].split() == ["published", "61.4"]
    assert any(line.startswith("VOC: Published: the VOC table.") for line in rest)
    assert any(line.startswith("kNN: Published: He et al.") for line in rest)


def test_files_of_the_table(plan: Plan) -> None:
    report = collect(plan)
    data = json.loads(json.dumps(to_json(report)))
    knn, voc = data["columns"]
    assert (knn["name"], knn["engine"], voc["engine"], voc["baseline"]) == ("kNN", "knn", "torchvision", "supervised")
    assert [row["name"] for row in knn["rows"]] == ["supervised", "MoCo <v2>"]
    assert knn["rows"][1]["metrics"]["knn/acc1"]["published"] == "fail" and voc["rows"][2]["wanted"] == 0
    lines = list(csv.DictReader(to_csv(report).splitlines()))
    assert {line["column"] for line in lines} == {"kNN", "VOC"} and len(lines) == 2 + 3 * 2
    rows = [line for line in markdown(report).splitlines() if line.startswith("|")]
    assert rows[0] == "| row | n | kNN kNN top-1 | n | VOC AP50 | VOC AP |" and len({r.count("|") for r in rows}) == 1
    tex = table(report).splitlines()
    assert r" & \multicolumn{2}{c}{kNN} & \multicolumn{4}{c}{VOC} \\" in tex
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-7}" in tex
    columns = [r.count(" &") + r.count("\\multicolumn{2}") for r in tex if r.endswith("\\\\")]
    assert columns[1:] == [6] * len(columns[1:])


def test_the_page_has_sections_per_column_and_unique_ids(plan: Plan) -> None:
    page = Page(write_report(plan).read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {"results", "column-knn", "column-voc", "voc-trials", "voc-classes", "knn-trials"} <= set(ids)
    for _, attributes in page.elements:
        for value in (attributes.get("href") or "", attributes.get("clip-path") or ""):
            if found := re.match(r"(?:url\()?#([^)]+)", value):
                assert found[1] in ids
    groups = [(a["colspan"], a["scope"]) for a in page.all("th") if a.get("scope") == "colgroup"]
    assert groups == [("1", "colgroup"), ("2", "colgroup")]
    assert "published fail" in page.text and "All cells are complete." in page.text and "published only" in page.text


def test_commands_of_a_row_are_those_of_all_its_columns(plan: Plan) -> None:
    names = [name for name, _ in commands(plan, plan.experiment.rows[1])]
    assert names[2:] == [
        "kNN: knn of 'MoCo <v2>', seed 1",
        "kNN: knn of 'MoCo <v2>', seed 2",
        "VOC: fine-tune 'MoCo <v2>', seed 1",
    ]


def test_two_schedules_of_a_table_with_columns(plan: Plan, tmp_path: Path, generated: Path) -> None:
    said = write_comparison(plan, plan, tmp_path / "s.html")
    assert said.startswith("kNN\n") and "\n\nVOC\n" in said
    other = trees.plan(trees.experiment_file(tmp_path, generated))
    with pytest.raises(ConfigError, match="share no column: 'kNN', 'VOC' and ''"):
        write_comparison(plan, other, tmp_path / "s.html")


def test_ids_get_a_prefix_in_tags_only() -> None:
    element = Markup('<svg id="a"><use href="#a" clip-path="url(#b)"/></svg> text id="c" <a href="report.html">x</a>')
    assert prefixed(element, "p-") == (
        '<svg id="p-a"><use href="#p-a" clip-path="url(#p-b)"/></svg> text id="c" <a href="report.html">x</a>'
    )
