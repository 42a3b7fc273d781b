"""--auto-scale on the two tools that train, and the options of several machines."""

from __future__ import annotations

import pytest

from pretrain.runtime.commands import status
from pretrain.runtime.result import RunResult
from tests.tools.test_errors import tool
from transfer.config.load import digest, load_config

ENGINE = ["--engine", "torchvision"]


@pytest.mark.parametrize("name", ["train_net", "run_trials"])
def test_auto_scale_is_what_runs_and_what_is_recorded(name, small_config, small_opts, tmp_path, capsys):
    trials = name == "run_trials"
    where = ["--output-dir", str(tmp_path / "run"), "--trials", "1"] if trials else []
    opts = [*small_opts, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1"]
    words = ["--config-file", str(small_config), *ENGINE, *where, "--auto-scale", "1", "--", *opts]
    assert tool(name).main(words) == 0
    assert "SOLVER.MAX_ITER" in (err := capsys.readouterr().err) and "2  ->  4" in err
    folder = tmp_path / "run" / "seed_1" if trials else tmp_path / "run"
    result, cfg = RunResult.load(folder), load_config(folder / "config.yaml")
    assert result.iterations == 4 and result.config_digest == digest(cfg)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS) == (1, 0.005, 2)
    (note,) = [note for note in result.notes if note.startswith("auto-scaled")]
    assert digest(load_config(small_config, opts)) in note and "SOLVER.MAX_ITER 2 -> 4" in note
    assert any("[learning-rate]" in note for note in result.notes)  # 0.01 for 2 images was no rule of the papers'
    if trials:  # a second call finds the same scaled trial
        assert tool(name).main(words) == 0 and RunResult.load(folder) == result


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-machines", "2"], "2 machines need tcp://HOST:PORT"),
        (["--num-machines", "2", "--machine-rank", "2", "--dist-url", "tcp://a:1"], "numbered from 0"),
        (["--num-machines", "2", "--dist-url", "tcp://a:1", "--num-gpus", "0"], "each machine needs a process"),
        (["--auto-scale", "0"], "--auto-scale 0: give the images per batch"),
    ],
)
@pytest.mark.parametrize("name", ["train_net", "run_trials"])
def test_options_that_do_not_go_together(name, words, message, small_config, tmp_path, capsys):
    where = ["--output-dir", str(tmp_path)] if name == "run_trials" else []
    assert status(tool(name).main, ["--config-file", str(small_config), *ENGINE, *where, *words]) == 2
    assert message in capsys.readouterr().err
