"""Which files changed since the stages read or left them."""

from __future__ import annotations

import re
from pathlib import Path

from pretrain.runtime import checkpoint
from pretrain.runtime.provenance import file_sha256
from tests.transfer.report import trees
from transfer.report.sections.verification import verification
from transfer.trials.stages import RECORD


def record(plan) -> None:
    for stage in plan.stages():
        stage.folder.mkdir(parents=True, exist_ok=True)
        outputs = stage._hashes()
        done = {} if outputs is None else {"outputs": outputs}
        checkpoint.save_json({"inputs": stage._wanted(), **done}, stage.folder / RECORD)


def test_says_what_changed_and_what_is_gone(generated: Path, tmp_path: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    assert verification(plan) is None  # nothing has run
    trees.fill(plan)
    weights = tmp_path / "out" / "converted" / "moco" / "trunk.pkl"
    weights.write_bytes(b"weights")
    record(plan)
    whole = str(verification(plan))
    assert "Changed since" not in whole and re.search(r"\d+ recorded: \d+ unchanged\.", whole)

    weights.write_bytes(b"other weights")
    result = trees.row_folder(plan, 0) / "seed_1" / "result.json"
    result.write_text(result.read_text().replace("1201", "1202"))
    (trees.row_folder(plan, 1) / "seed_2" / "result.json").unlink()
    page = str(verification(plan))
    changed = page[page.index("Changed since") : page.index("All of them")]
    assert f"{result}</td>" in changed and f"weights: {weights}</td>" in changed
    assert changed.count(">gone</td>") == 1 and file_sha256(weights)[:16] in changed


def test_a_record_that_cannot_be_read_is_named(generated: Path, tmp_path: Path) -> None:
    plan = trees.plan(trees.experiment_file(tmp_path, generated, trials=2))
    trees.fill(plan)
    record(plan)
    (trees.row_folder(plan, 0) / "seed_1" / RECORD).write_text("{")
    assert "stage.json' is no record of a stage" in str(verification(plan))


def test_a_file_is_hashed_once_as_long_as_it_stays(tmp_path: Path, monkeypatch) -> None:
    calls = []
    sha256 = checkpoint.sha256
    monkeypatch.setattr(checkpoint, "sha256", lambda path: calls.append(path) or sha256(path))
    (tmp_path / "a").write_bytes(b"1")
    first = file_sha256(tmp_path / "a")
    assert file_sha256(tmp_path / "a") == first and len(calls) == 1
    (tmp_path / "a").write_bytes(b"22")
    assert file_sha256(tmp_path / "a") != first and len(calls) == 2
