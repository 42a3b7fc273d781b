"""Results on disk, and the digests that make them comparable."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from pretrain.runtime.provenance import config_digest, digest, environment
from pretrain.runtime.result import ResultError, RunResult


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


def test_undefined_metrics_come_back_as_such(tmp_path: Path) -> None:
    RunResult("train", "torchvision", 1, "d", metrics={"a": math.nan, "b": 3.0}, extra={"x": [math.inf]}).save(tmp_path)
    result = RunResult.load(tmp_path)
    assert math.isnan(result.metrics["a"]) and result.metrics["b"] == 3.0 and result.extra == {"x": [None]}
    assert '"a": null' in (tmp_path / "result.json").read_text()


GOOD = {"kind": "train", "engine": "torchvision", "seed": 1, "config_digest": "d"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("", "is no JSON"),
        ("[" * 10**5, "is no JSON"),
        ("[]", "is []; it should be an object"),
        ('{"kind": "train"}', "engine: is missing; add it"),
        ({"colour": 1}, "colour: is not known; remove it"),
        ({"metric": {}}, "metric: is not known; did you mean metrics?"),
        ({"seed": "1"}, "seed: is '1'; it should be a valid integer"),
        ({"seed": True}, "seed: is True; it should be a valid integer"),
        ({"seed": 1.5}, "seed: is 1.5; it should be a valid integer"),
        ({"metrics": {"AP": "81"}}, "metrics.AP: is '81'; it should be a valid number"),
        ({"metrics": {"AP": True}}, "metrics.AP: is True; it should be a valid number"),
        ({"metrics": {"AP": [1]}}, "metrics.AP: is [1]; it should be a valid number"),
        ({"metrics": [1]}, "metrics: is [1]; it should be a"),
        ({"metrics": None}, "metrics: is None; it should be a"),
        ({"notes": "a"}, "notes: is 'a'; it should be a valid "),
        ({"notes": [1]}, "notes[0]: is 1; it should be a valid string"),
        ({"artifacts": {"model": 3}}, "artifacts.model: is 3; it should be a valid string"),
        ({"weights_sha256": 3}, "weights_sha256: is 3; it should be a valid string"),
        ({"iterations": -1}, "iterations: is -1; it should be greater than or equal to 0"),
        ({"seconds": None}, "seconds: is None; it should be a valid number"),
        ({"seconds": 1e308}, "seconds: is 1e+308; it should be less than or equal to 1"),
        ({"seconds": float("inf")}, "seconds: is inf; it should be less than or equal to 1"),
        ({"extra": 3}, "extra: is 3; it should be"),
    ],
)
def test_foreign_files_name_themselves_and_the_field(text: Any, message: str, tmp_path: Path) -> None:
    text = text if isinstance(text, str) else json.dumps(GOOD | text)
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ResultError) as caught:
        RunResult.load(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"'{tmp_path}/result.json' is not a result of this version: ") and "\n" not in said
    assert message in said and said.endswith("; delete it and run again") and isinstance(caught.value, ValueError)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
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
    assert {"python", "packages", "platform", "commit", "peak_memory_gb", *machine} == found.keys()
    assert (found["computed_on"], found["processes"]) == ("cpu", 1)
    block = bytearray(10**8)
    held = environment("cpu")["peak_memory_gb"]["process"]
    assert held >= found["peak_memory_gb"]["process"] > 0.01 and held > len(block) / 1e9
    assert {"torch", "torchvision"} <= found["packages"].keys()


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("extra", {"set": {"per_class": {"cat": 3}}}, "extra.set: per_class.cat: is 3"),
        ("extra", {"set": {"protocol": 7}}, "protocol: is 7"),
        ("provenance", {"packages": {"torch": [1]}}, "packages.torch"),
        ("provenance", {"peak_memory_gb": 2}, "peak_memory_gb: is 2"),
    ],
)
def test_what_a_report_reads_of_a_result_is_checked(tmp_path, field, value, place):
    found = RunResult("train", "torchvision", 1, "c0ffee", **{field: value})
    found.save(tmp_path)
    with pytest.raises(ResultError, match=re.escape(place)):
        RunResult.load(tmp_path)
