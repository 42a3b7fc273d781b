"""Experiment files are typed to the leaf: a mistake is one line that names file and place."""

from __future__ import annotations

import copy
import math

import pytest
import yaml

from pretrain.runtime.config import ConfigError
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.trials.experiment import load_experiment
from transfer.trials.plan import Plan

ONE = {
    "title": "t", "source": "s", "trials": 2, "metrics": ["AP50"],
    "pretrain": {"moco": {"config": "CONFIG", "opts": ["A", 1]}},
    "transfer": {"config": "CONFIG", "opts": ["SOLVER.STEPS", [1, 2]], "cost": {"gpu_hours": 1, "source": "s"}},
    "data": {"generated": {"seed": 0, "scene_size": [160, 128]}},
    "rows": [
        {"name": "a", "weights": None, "published": {"AP50": 1}},
        {"name": "b", "weights": {"pretrain": "moco"}, "opts": ["SOLVER.MAX_ITER", 3]},
        {"name": "c", "weights": {"file": "c.pth", "get": "there", "sha256": "0676ba61"}},
        {"name": "d", "published": {"AP50": "fail"}},
    ],
}  # fmt: skip
TWO = {
    "title": "t", "pretrain": {"moco": {"config": "CONFIG"}},
    "columns": {
        "kNN": {"probe": {"protocol": "knn", "opts": ["--train", "x", "--val", "y"]}, "trials": 1},
        "VOC": {"transfer": {"config": "CONFIG"}, "metrics": ["AP50", "AP"], "source": "s"},
    },
    "rows": [
        {"name": "a", "weights": None, "columns": {"kNN": None}, "published": {"VOC": {"AP50": 60.0}}},
        {"name": "b", "weights": {"pretrain": "moco"}, "columns": {"VOC": {"opts": ["SOLVER.MAX_ITER", 3]}}},
        {"name": "c", "published": {"kNN": {"knn/acc1": 50.0}}},
    ],
}  # fmt: skip


def load(tmp_path, small_config, content):
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False).replace("CONFIG", str(small_config)))
    return load_experiment(path, tmp_path / "out")


def put(content, place, value):
    """A copy with another value at a dotted place; of a value that is ... the key is left out."""
    *above, last = (int(part) if part.isdigit() else part for part in place.split("."))
    changed = node = copy.deepcopy(content)
    for part in above:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return changed


def test_both_forms(tmp_path, small_config):
    one = load(tmp_path, small_config, ONE)
    (column,) = one.columns
    assert column.name == "" and [row.entry(column).published for row in one.rows] == [
        {"bbox/AP50": 1.0}, {}, {}, {"bbox/AP50": "fail"},
    ]  # fmt: skip
    assert one.rows[0].job(column).opts == ("SOLVER.STEPS", "[1, 2]") and one.rows[3].entry(column).run is None
    two = load(tmp_path, small_config, TWO)
    knn, voc = two.columns
    assert (knn.probe, knn.trials, [m.key for m in knn.metrics]) == ("knn", 1, ["knn/acc1"]) and voc.trials == 5
    assert [(c.name, row.name) for c, row in two.runs()] == [("kNN", "b"), ("VOC", "a"), ("VOC", "b")]
    assert two.rows[1].job(voc).opts == ("SOLVER.MAX_ITER", "3") and "VOC" not in two.rows[2].entries


WRONG = [None, 5, 2.5, math.nan, math.inf, True, "x", "", [], ["a"], {}, {"a": 1}, "a\nb", "\x1b[31m"]
PLACES = {
    "title": ("x",), "source": ("x",), "output": ("x",), "trials": (5,), "metrics": (), "pretrain": ({},),
    "transfer": (),
    "transfer.config": (), "transfer.opts": ([],), "transfer.cost": (None,), "transfer.cost.gpu_hours": (5, 2.5),
    "transfer.cost.source": ("x",), "data": (), "data.generated": ({}, None), "data.generated.seed": (5,), "rows": (),
    "rows.0": (), "rows.0.name": ("x",), "rows.0.weights": (None,), "rows.0.published": ({},),
    "rows.0.published.AP50": (5, 2.5), "rows.1.weights.pretrain": (), "rows.1.opts": ([],),
    "rows.2.weights.file": ("x",), "rows.2.weights.get": ("x",), "rows.2.weights.sha256": (), "rows.1.config": (),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_values_of_another_kind_are_one_line(tmp_path, small_config, place):
    """At every place, all that YAML can write and is not what belongs there."""
    for value in WRONG:
        changed = put(ONE, place, value)
        if place == "pretrain":
            changed = put(changed, "rows.1.weights", None)
        right = any(value is w or (value == w and type(value) is type(w)) for w in PLACES[place])
        if right:
            load(tmp_path, small_config, changed)
            continue
        with pytest.raises(ConfigError) as error:
            load(tmp_path, small_config, changed)
        said = str(error.value)
        assert f"{tmp_path}/e.yaml" in said and "\n" not in said and "\x1b" not in said, (value, said)
        assert len(said) < 600 + len(str(tmp_path)) * 3


@pytest.mark.parametrize(
    ("content", "place", "value", "message"),
    [
        (ONE, "trials", 10_000_000, "trials: is 10000000; it should be less than or equal to 1000"),
        (ONE, "title", 2024, "title: is 2024; it should be a valid string"),
        (ONE, "rows", {"a": 1}, "rows: is {'a': 1}; it should be a valid list"),
        (ONE, "metrics", ["mIoU"], "metrics: no metric is called 'mIoU'; did you mean sem_seg/mIoU"),
        (ONE, "metrics", ["AP50", "bbox/AP50"], "one stands twice"),
        (ONE, "metrics", ["knn/acc1"], "no metric is called 'knn/acc1'"),
        (ONE, "rows.0.published", {"AP500": 1.0}, "row 'a': published: no metric is called 'AP500'; did you mean AP50"),
        (ONE, "rows.0.published", {"AP": 1.0, "bbox/AP": 2.0}, "a metric stands twice"),
        (ONE, "rows.0.published", {"AP50": "failed"}, "is 'failed'; give the published number, or fail"),
        (ONE, "rows.1.opts", ["OUTPUT_DIR", "/tmp/x"], "OUTPUT_DIR is the experiment's to set"),
        (ONE, "rows.1.opts", ["MODEL.WEIGHTS", "x"], "MODEL.WEIGHTS is the experiment's to set"),
        (ONE, "pretrain.moco.opts", ["OUTPUT_DIR", "/tmp/x"], "OUTPUT_DIR is the experiment's to set"),
        (ONE, "rows.1.opts", [{"a": 1}, 2], "the key {'a': 1} is no text"),
        (ONE, "rows.1.opts", ["A", {"a": 1}], "the value of 'A' is {'a': 1}; give text, a number or a list"),
        (ONE, "data.generated", {"sed": 1}, "unknown key 'sed'; did you mean seed"),
        (ONE, "data.generated", {"quality": 101}, "quality is 101"),
        (ONE, "rows.3.published", ..., "'weights' is missing; a row without them is published only"),
        (ONE, "rows.3.opts", ["SOLVER.MAX_ITER", 3], "'weights' is missing; a row without them is published only"),
        (TWO, "rows.2.columns", {"VOC": None}, "'weights' is missing; a row without them is published only"),
        (TWO, "metrics", ["AP"], "metrics stands beside `columns`; it belongs into each of them"),
        (ONE, "rows.2.name", "MOCO", "pre-training 'moco' and row 'MOCO' would share the folder 'moco'"),
        (ONE, "rows.1.name", "A", "row 1, 'a', and row 2, 'A', would share the folder 'a'"),
        (ONE, "columns", TWO["columns"], "transfer stands beside `columns`; it belongs into each of them"),
        (TWO, "columns.VOC.transfer", ..., "columns.VOC: give either `transfer` or `probe`"),
        (TWO, "columns.VOC.anew", True, "columns.VOC: anew is of a probe"),
        (TWO, "columns.kNN.metrics", ["AP50"], "columns.kNN.metrics: no metric is called 'AP50'; there are knn/acc1"),
        (TWO, "columns", {}, "columns: is {}"),
        (TWO, "rows.1.columns", {"VOV": None}, "no column is called 'VOV'; did you mean VOC? (columns are kNN, VOC)"),
        (TWO, "rows.1.published", {"AP50": 1.0}, "rows[1].published.AP50"),
        (TWO, "rows.0.columns", {}, "frozen features need weights; write `columns: {kNN: null}` to leave it out there"),
        (TWO, "rows.1.columns", {"kNN": {"config": "CONFIG"}}, "knn has no config"),
        (TWO, "rows.1.config", "CONFIG", "rows[1].config: is not known"),
    ],
)  # fmt: skip
def test_mistakes_have_a_remedy(tmp_path, small_config, content, place, value, message):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, small_config, put(content, place, value))
    assert message in str(error.value)


def test_names_never_leave_the_output_folder(tmp_path, small_config):
    out = "../../../escaped"
    content = put(put(ONE, "pretrain", {out: {"config": "CONFIG"}}), "rows.1.weights.pretrain", out)
    experiment = load(tmp_path, small_config, put(content, "rows.0.name", "../../x"))
    plan = Plan(experiment, TorchvisionEngine(), tmp_path)
    folders = [plan.pretrain_folder(out), plan.converted(plan.trunk_name(experiment.rows[1]))]
    assert [f.relative_to(tmp_path / "out").parts[1] for f in folders] == ["escaped", "escaped"]
    assert experiment.rows[0].slug == "x"
