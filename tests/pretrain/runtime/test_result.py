"""Results on disk, and the digests that make them comparable."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.runtime.provenance import config_digest, digest, environment
from pretrain.runtime.result import RunResult


def test_round_trip(tmp_path: Path) -> None:
    result = RunResult(
        kind="pretrain",
        engine="pretrain",
        seed=3,
        config_digest="0" * 16,
        metrics={"loss": 6.5},
        notes=["a"],
        artifacts={"checkpoint": "a.pth"},
        extra={"nested": {"list": [1, 2]}},
    )
    assert result.save(tmp_path) == tmp_path / "result.json"
    assert RunResult.load(tmp_path) == result


def test_foreign_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RunResult.load(tmp_path)
    for text in ("{", '{"kind": "train"}', '{"colour": 1}'):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match="result.json' is not a result of this version"):
            RunResult.load(tmp_path)


def test_digest_does_not_see_order_or_sequence_type() -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2}) != digest({"b": 2})
    assert len(digest({})) == 16


def test_config_digest_leaves_out_what_is_excluded_and_nothing_else() -> None:
    a = CfgNode({"X": {"LR": 0.1, "DIR": "a"}, "SEED": 0})
    b = CfgNode({"X": {"LR": 0.1, "DIR": "b"}, "SEED": 1})
    assert config_digest(a) != config_digest(b)
    assert config_digest(a, exclude=("X.DIR", "SEED")) == config_digest(b, exclude=("X.DIR", "SEED"))
    assert config_digest(a, exclude=("DIR", "SEED")) != config_digest(b, exclude=("DIR", "SEED"))
    b.X.LR = 0.2
    assert config_digest(a, exclude=("X.DIR", "SEED")) != config_digest(b, exclude=("X.DIR", "SEED"))


def test_environment_names_versions_and_machine() -> None:
    found = environment("cpu")
    machine = {"computed_on", "processes", "device", "gpus", "threads"}
    assert {"python", "packages", "platform", "commit", *machine} == found.keys()
    assert (found["computed_on"], found["processes"]) == ("cpu", 1)
    assert {"torch", "torchvision"} <= found["packages"].keys()
