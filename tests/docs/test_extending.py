"""docs/extending.md, followed: its toy task is taken from the page, trained over two trials, and put into a table."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.architectures import ARCHITECTURES, options
from tests.conftest import ROOT
from transfer.data.voc import VOC
from transfer.engines.tv import adapters
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.evaluation.protocols import PROTOCOLS
from transfer.report.collect import collect
from transfer.report.tables import text
from transfer.tasks import TASKS
from transfer.trials.experiment import load_experiment
from transfer.trials.plan import Plan
from transfer.trials.run import run_trials

PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's blocks as the module that it says they are; what it adds to the tables goes afterwards."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "counting.py").write_text("\n\n".join(blocks))
    monkeypatch.syspath_prepend(str(tmp_path))
    for table in (PROTOCOLS, TASKS, adapters.ADAPTERS):
        monkeypatch.setitem(table, "counting", None)  # puts the table back as it was
    monkeypatch.setattr(VOC, "protocols", VOC.protocols)
    monkeypatch.delitem(TASKS, "counting")
    monkeypatch.delitem(adapters.ADAPTERS, "counting")
    __import__("counting")
    monkeypatch.delitem(sys.modules, "counting", raising=False)


def test_the_page_names_what_is_there() -> None:
    for path in re.findall(r"`((?:transfer|pretrain|tests)/[\w/]+\.py)`", PAGE.read_text()):
        assert (ROOT / path).is_file(), path
    for name, module in re.findall(r"`(FORMATS|PROTOCOLS|TASKS|ADAPTERS|LAYOUTS)` in `([\w/]+\.py)`", PAGE.read_text()):
        assert re.search(rf"^{name}\b", (ROOT / module).read_text(), re.MULTILINE), (name, module)


def test_a_toy_task_is_trained_evaluated_and_tabulated(counting: None, generated: Path, tmp_path: Path) -> None:
    words = options("R18-C4", generated, tmp_path)
    opts = [*words, "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", "MODEL.META_ARCHITECTURE", "ObjectCounter"]
    del opts[opts.index("OUTPUT_DIR") : opts.index("OUTPUT_DIR") + 2], opts[opts.index("SEED") : opts.index("SEED") + 2]
    config = ARCHITECTURES["R18-C4"][0]
    file = tmp_path / "counting.yaml"
    content = {
        "title": "Counting", "output": str(tmp_path / "out"), "trials": 2, "metrics": ["count/error"],
        "transfer": {"config": str(config), "opts": opts}, "rows": [{"name": "random", "weights": None}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    experiment = load_experiment(file)
    plan = Plan(experiment, TorchvisionEngine(), ROOT / "tools")
    ((column, row),) = experiment.runs()
    found = run_trials(plan.engine, config, opts, plan.row_folder(column, row), column.seeds)
    assert found.metrics.keys() == {"count/error"} and 0 < found.metrics["count/error"].mean < 20
    assert (plan.row_folder(column, row) / "seed_1" / "counts_generated_test.txt").is_file()
    table = text(collect(plan))
    assert "error of counts" in table and f"{found.metrics['count/error'].mean:.1f} ±" in table
