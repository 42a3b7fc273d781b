"""Going on with a run: from what, with which config, and what its result then says. No training is needed for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from pretrain.runtime.config import ConfigError, to_dict, value_at
from transfer.config.load import digest, load_config
from transfer.engines import base, resume
from transfer.engines.base import EngineError


@pytest.fixture
def config(small_config):
    return lambda *opts: load_config(small_config, ["SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "(4,)", *opts])


def begun(folder, cfg):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(cfg)))


def written(folder, iteration, **more):
    name = f"model_{iteration:07d}.pth"
    torch.save({"model": {}, "optimizer": {}, "iteration": iteration + 1, **more}, folder / name)
    (folder / base.LAST_CHECKPOINT).write_text(name)
    return folder / name


class Opens:
    """Pickled, it touches a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("damage", ["empty", "gone", "cut", "weights", "elsewhere", "above", "letters", "code", "long"])
def test_a_damaged_pointer_or_checkpoint_falls_back_to_the_newest_whole_one(damage, tmp_path, caplog):
    folder, outside, ran = tmp_path / "run", tmp_path / "evil.pth", tmp_path / "ran"
    folder.mkdir()
    written(folder, 1), written(folder, 3)
    newest, pointer = written(folder, 5), folder / base.LAST_CHECKPOINT
    torch.save({"x": Opens(ran)}, outside)
    names = {"empty": "", "elsewhere": str(outside), "above": "../evil.pth", "letters": "\ud800", "long": "x" * 10**6}
    if damage in names:
        pointer.write_bytes(names[damage].encode("utf-8", "surrogatepass"))
    elif damage == "gone":
        newest.unlink()
    elif damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-100])
    elif damage == "weights":
        torch.save({"model": {}}, newest)
    else:
        torch.save({"optimizer": Opens(ran), "iteration": 6}, newest)
    assert resume.check_resume(folder, "auto") is True
    left = 5 if damage in names else 3
    assert (
        pointer.read_text() == f"model_{left:07d}.pth"
        and f"going on from '{folder / pointer.read_text()}" in caplog.text
    )
    assert not ran.exists()
    for path in folder.glob("model_*"):
        path.unlink()
    with pytest.raises(EngineError, match="can be gone on from: .* to begin anew"):
        resume.check_resume(folder, "must")


def test_resume_rules(tmp_path):
    assert resume.check_resume(tmp_path, "no") is False
    assert resume.check_resume(tmp_path, "auto") is False
    with pytest.raises(EngineError, match="no checkpoint in"):
        resume.check_resume(tmp_path, "must")
    written(tmp_path, 1)
    assert resume.check_resume(tmp_path, "must") and resume.check_resume(tmp_path, "auto")
    with pytest.raises(EngineError, match="holds the checkpoint of an earlier run"):
        resume.check_resume(tmp_path, "no")


def test_only_the_length_may_change(config, tmp_path):
    begun(tmp_path, config())
    assert resume.changed_keys(config(), tmp_path) == {}
    longer = config("SOLVER.MAX_ITER", "9", "TEST.EVAL_PERIOD", "2", "OUTPUT_DIR", "elsewhere")
    assert resume.changed_keys(longer, tmp_path) == {"SOLVER.MAX_ITER": (6, 9)}
    with pytest.raises(EngineError, match=r"SOLVER.BASE_LR was 0.0\d+ and is 0.5"):
        resume.changed_keys(config("SOLVER.BASE_LR", "0.5"), tmp_path)
    with pytest.raises(EngineError, match="MODEL.RESNETS.NORM was 'naiveSyncBN' and is 'BN'"):
        resume.changed_keys(config("MODEL.RESNETS.NORM", "BN"), tmp_path)
    begun(tmp_path, config("SEED", "3"))
    with pytest.raises(EngineError, match="SEED was 3 and is 4"):
        resume.changed_keys(config("SEED", "4"), tmp_path)


@pytest.mark.parametrize(
    ("group", "key", "was", "now"),
    [("SOLVER.AMP", "PRECISION", "fp16", "bf16"), ("DATALOADER", "RANDOM_SUBSET_RATIO", "1.0", "0.5")],
)
def test_a_run_from_before_a_key_was_there_had_what_it_now_says(group, key, was, now, config, tmp_path):
    before = to_dict(config())
    del value_at(before, group)[key]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(before))
    assert resume.changed_keys(config(), tmp_path) == {}
    with pytest.raises(EngineError, match=rf"{group}.{key} was '?{was}'? and is '?{now}'?\)"):
        resume.changed_keys(config(f"{group}.{key}", now), tmp_path)


@pytest.mark.parametrize(("key", "value"), [("MAX_ITER", [6]), ("STEPS", 4), ("STEPS", ["x"]), ("MAX_ITER", "long")])
def test_a_damaged_schedule_is_named(key, value, config, tmp_path):
    """What the earlier run's file says is compared, and must not end in an error of the comparison."""
    damaged = to_dict(config())
    damaged["SOLVER"][key] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(damaged))
    with pytest.raises(EngineError, match=rf"config\.yaml' is damaged, SOLVER\.{key} is "):
        resume.changed_keys(config(), tmp_path)


def test_a_seed_that_is_no_number_binds_nobody(config, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**to_dict(config()), "SEED": ["x"]}))
    assert resume.changed_keys(config("SEED", "3"), tmp_path) == {}


@pytest.mark.parametrize("text", ["[]", "{}", "5", "null", '{"weights_sha256": 5}', "[" * 100_000, "\xff", '"x"'])
def test_damaged_records_are_unknown_or_named(text, config, tmp_path):
    (tmp_path / resume.BEGUN).write_text(text)
    resume.check_weights(tmp_path, "ab" * 32)
    (tmp_path / resume.RECORD).write_text(text)
    if text in ("[]", "{}"):
        assert resume.changes(tmp_path) == []
    else:
        with pytest.raises(EngineError, match="resumed.json' cannot be read"):
            resume.changes(tmp_path)


def test_a_folder_without_its_config_is_not_held_against_anything(config, tmp_path):
    assert resume.changed_keys(config(), tmp_path) == {}


def test_what_was_run_is_what_the_result_says(config, tmp_path):
    """Longer with the same past is the longer config's training; with another past it is one of its own."""
    cfg = config("SOLVER.MAX_ITER", "9")
    resume.record_change(cfg, tmp_path, {}, 6)
    assert resume.changes(tmp_path) == [] and resume.run_digest(cfg, []) == digest(cfg)
    resume.record_change(cfg, tmp_path, {"SOLVER.MAX_ITER": (6, 9)}, 6)
    (change,) = resume.changes(tmp_path)
    assert change.words == "continued after 6 iterations with another schedule: SOLVER.MAX_ITER 6 -> 9"
    assert not change.past and resume.run_digest(cfg, [change]) == digest(cfg)
    other = config("SOLVER.MAX_ITER", "9", "SOLVER.STEPS", "(8,)")
    resume.record_change(other, tmp_path, {"SOLVER.STEPS": ([4], [8])}, 6)
    found = resume.changes(tmp_path)
    assert [c.past for c in found] == [False, True] and resume.run_digest(other, found) != digest(other)
    with pytest.raises(ConfigError, match="has 12 iterations behind it, but SOLVER.MAX_ITER is 9: raise it"):
        resume.record_change(cfg, tmp_path, {}, 12)


def test_other_initial_weights_are_refused(tmp_path):
    resume.check_weights(tmp_path, "ab" * 32)  # nothing to hold them against
    resume.begin(tmp_path, False, "ab" * 32)
    resume.check_weights(tmp_path, "ab" * 32)
    with pytest.raises(EngineError, match="began with weights of sha256 abababababab, but MODEL.WEIGHTS gives random"):
        resume.check_weights(tmp_path, None)


def test_what_speaks_of_another_run_goes(tmp_path):
    for name in ("result.json", "model_final.pth", "resumed.json", "log.txt"):
        (tmp_path / name).write_text("[]")
    resume.begin(tmp_path, True, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.txt", "resumed.json"]
    resume.begin(tmp_path, False, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["begun.json", "log.txt"]
