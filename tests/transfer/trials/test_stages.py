"""A stage is done when its records say so: not because files lie about."""

from __future__ import annotations

import sys

import pytest

from transfer.trials.stages import Stage, StageError


def stage(folder, inputs=None, code="open(sys.argv[1] + '/out', 'a').write('x')"):
    command = (sys.executable, "-c", f"import sys; {code}", str(folder))
    return Stage("test", folder, command, inputs or {"a": 1}, ("out",))


def test_it_runs_once(tmp_path):
    s = stage(tmp_path / "s")
    assert s.state() == "new"
    s.run()
    assert s.state() == "done"
    s.run()
    assert (tmp_path / "s" / "out").read_text() == "x"


def test_files_without_a_record_do_not_count(tmp_path):
    s = stage(tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "out").write_text("stray")
    assert s.state() == "new"


def test_a_damaged_output_is_made_again(tmp_path):
    s = stage(tmp_path / "s")
    s.run()
    (tmp_path / "s" / "out").write_text("damaged")
    assert s.state() == "started"
    s.run()
    assert s.state() == "done"


def test_other_inputs_set_the_old_folder_aside(tmp_path):
    stage(tmp_path / "s").run()
    other = stage(tmp_path / "s", {"a": 2})
    assert other.state() == "stale" and other.changes() == "a"
    other.run()
    assert other.state() == "done" and (tmp_path / "s.stale1" / "out").read_text() == "x"


def test_a_failure_keeps_what_is_there_and_is_not_done(tmp_path):
    s = stage(tmp_path / "s", code="open(sys.argv[1] + '/half', 'w'); sys.exit(3)")
    with pytest.raises(StageError, match="exit code 3"):
        s.run()
    assert s.state() == "started" and (tmp_path / "s" / "half").exists()
    with pytest.raises(StageError, match="left no out"):
        stage(tmp_path / "t", code="pass").run()
