"""Experiment files: every one of the project parses; mistakes are named before anything runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from pretrain.config import check, get_cfg
from pretrain.probes.config import check as check_classifier
from pretrain.probes.config import load_lincls
from pretrain.runtime.config import ConfigError, merge_file, merge_opts
from tests.conftest import ROOT
from tests.transfer.trials import test_table6
from transfer.config.load import digest
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.trials.experiment import load_experiment
from transfer.trials.output_folders import PRETRAINED
from transfer.trials.plan import Plan
from transfer.trials.preflight import missing

FILES = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))

GOOD = """
title: t
transfer: {{config: {config}, opts: [SOLVER.MAX_ITER, 9]}}
pretrain: {{a: {{config: {config}, opts: [DATA.TRAIN, "{{data}}/x"]}}}}
rows:
  - {{name: Random init., weights: null, published: {{AP50: 60.2}}}}
  - {{name: ours, weights: {{pretrain: a}}, opts: [MODEL.DEVICE, cpu]}}
"""


def write(tmp_path, config, edit=lambda text: text):
    path = tmp_path / "e.yaml"
    path.write_text(edit(GOOD.format(config=config)))
    return path


def column(experiment, row=None):
    """The one column of the form without `columns`, or what a row has there."""
    (only,) = experiment.columns
    return only if row is None else row.entry(only)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_of_the_project(path):
    experiment = load_experiment(path)
    assert experiment.title and experiment.rows and list(experiment.runs())
    for c in experiment.columns:
        one_run = c.probe is not None or "table5" in path.stem
        if path.stem not in test_table6.TABLES:
            assert c.trials == (5 if path.stem.startswith("small_") else 1 if one_run else 5)
        shown = {m.key for m in c.metrics}
        assert all(set(row.entry(c).published) <= shown for row in experiment.rows)


DC5, C4, BOX = "R50-dilated-C5", "R50-C4", ""
TABLES = {  # MoCo, Tables 2 to 5: column -> row -> AP50, AP, AP75; of Table 5 box AP, AP50, AP75, then those of masks
    "table2": {
        DC5: {
            "random init.": (64.4, 37.9, 38.6), "supervised IN-1M": (81.4, 54.0, 59.1),
            "MoCo IN-1M": (81.1, 54.6, 59.9), "MoCo IG-1B": (81.6, 55.5, 61.2),
        },
        C4: {
            "random init.": (60.2, 33.8, 33.1), "supervised IN-1M": (81.3, 53.5, 58.8),
            "MoCo IN-1M": (81.5, 55.9, 62.6), "MoCo IG-1B": (82.2, 57.2, 63.7),
        },
    },
    "table3": {
        DC5: {"end-to-end": (79.2, 52.0, 56.6), "memory bank": (79.8, 52.9, 57.9), "MoCo": (81.1, 54.6, 59.9)},
        C4: {"end-to-end": (80.4, 54.6, 60.3), "memory bank": (80.6, 54.9, 60.6), "MoCo": (81.5, 55.9, 62.6)},
    },
    "table4": {
        BOX: {
            "supervised IN-1M": (74.4, 42.4, 42.7), "MoCo IN-1M": (74.9, 46.6, 50.1), "MoCo IN-14M": (75.2, 46.9, 50.2),
            "MoCo YFCC-100M": (74.7, 45.9, 49.0), "MoCo IG-1B": (75.6, 47.6, 51.7),
            "RelPos, by Multi-task (supervised 74.2; -7.4)": (66.8, None, None),
            "Multi-task (supervised 74.2, AP75 44.3; -3.7, -0.4)": (70.5, None, 43.9),
            "Jigsaw (supervised 70.5; -9.1)": (61.4, None, None),
            "Jigsaw, IN-14M (supervised 70.5; -1.3)": (69.2, None, None),
            "Jigsaw, YFCC-100M (supervised 70.5; -3.9)": (66.6, None, None),
            "LocalAgg (supervised 74.6; -5.5)": (69.1, None, None),
        },
    },
    "table5a": {BOX: {
        "random init.": (31.0, 49.5, 33.2, 28.5, 46.8, 30.4), "supervised IN-1M": (38.9, 59.6, 42.7, 35.4, 56.5, 38.1),
        "MoCo IN-1M": (38.5, 58.9, 42.0, 35.1, 55.9, 37.7), "MoCo IG-1B": (38.9, 59.4, 42.3, 35.4, 56.5, 37.9),
    }},
    "table5b": {BOX: {
        "random init.": (36.7, 56.7, 40.0, 33.7, 53.8, 35.9), "supervised IN-1M": (40.6, 61.3, 44.4, 36.8, 58.1, 39.5),
        "MoCo IN-1M": (40.8, 61.6, 44.7, 36.9, 58.4, 39.7), "MoCo IG-1B": (41.1, 61.8, 45.1, 37.4, 59.1, 40.2),
    }},
    "table5c": {BOX: {
        "random init.": (26.4, 44.0, 27.8, 29.3, 46.9, 30.8), "supervised IN-1M": (38.2, 58.2, 41.2, 33.3, 54.7, 35.2),
        "MoCo IN-1M": (38.5, 58.3, 41.6, 33.6, 54.8, 35.6), "MoCo IG-1B": (39.1, 58.7, 42.2, 34.1, 55.4, 36.4),
    }},
    "table5d": {BOX: {
        "random init.": (35.6, 54.6, 38.2, 31.4, 51.5, 33.5), "supervised IN-1M": (40.0, 59.9, 43.1, 34.7, 56.5, 36.9),
        "MoCo IN-1M": (40.7, 60.5, 44.1, 35.4, 57.3, 37.6), "MoCo IG-1B": (41.1, 60.7, 44.8, 35.6, 57.4, 38.1),
    }},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_say_what_the_paper_says(name):
    """Every published row with its numbers; MSRA input for random and supervised, the `_moco` diff for the others."""
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{name}.yaml")
    assert [c.name for c in experiment.columns] == list(TABLES[name])
    for c in experiment.columns:
        entries = {row.name: row.entry(c) for row in experiment.rows}
        published = {row: tuple(e.published.get(m.key) for m in c.metrics) for row, e in entries.items() if e.published}
        assert published == TABLES[name][c.name]
        jobs = {row: e.run.config.stem for row, e in entries.items() if e.run is not None}
        assert len({stem.removesuffix("_moco") for stem in jobs.values()}) == 1
        for row, stem in jobs.items():
            assert stem.endswith("_moco") != (row in ("random init.", "supervised IN-1M"))
        cited = set(entries) - set(jobs)
        assert cited == ({row for row in entries if "; -" in row} if name == "table4" else set())
        ours = {row for row, e in entries.items() if not e.published}
        assert ours == (set() if name == "table3" else {"supervised IN-1M (torchvision, ours)"})


def test_the_gaps_of_cited_rows_are_differences_to_their_own_supervised_networks():
    experiment = load_experiment(ROOT / "configs" / "experiments" / "table4.yaml")
    for row in experiment.rows:
        if found := re.search(r"supervised ([\d.]+)(?:, AP75 ([\d.]+))?; (-[\d.]+)(?:, (-[\d.]+))?", row.name):
            published = column(experiment, row).published
            assert published["bbox/AP50"] - float(found[1]) == pytest.approx(float(found[3]))
            if found[2]:
                assert published["bbox/AP75"] - float(found[2]) == pytest.approx(float(found[4]))


PUBLISHED = {
    "moco_momentum": ["fail", 55.2, 57.8, 59.0, 58.9],
    "moco_shuffle_bn": [None] * 4,
    "moco_mechanisms": [None] * 3 + [59.0, None, 60.6] + [None] * 3 + [58.0, 54.3, 54.0] + [None] * 4,
    "mocov2_temperature": [60.6, 60.7, 59.0, 58.2, 57.2, 56.4, 62.9, 64.9, 66.2, 65.7, 65.0, 64.3],
    "mocov2_table1": [76.5, 60.6, 66.2, 63.4, 67.3, 67.5, 71.1],
    "mocov2_table2": [60.6, 61.9, 66.6, 67.5, 69.3, 71.1],
    "moco_table1": [60.6, 63.9, 65.4, 68.6],
}
FINE_TUNED = {  # row -> top-1 and rate; IG-1B is cited
    "imagenet_finetune": {"random init.": (76.5, 0.1), "MoCo IN-1M": (77.0, 0.03), "MoCo IG-1B": (77.3, None)},
    "inaturalist": {
        "random init.": (61.8, 0.1), "supervised IN-1M": (66.1, 0.025), "MoCo IN-1M": (65.6, 0.025),
        "MoCo IG-1B": (65.8, None),
    },
}  # fmt: skip


def test_every_published_number_is_checked():
    """A file with published numbers stands in one of the tables of this module, or of `test_table6`."""
    entries = {path.stem: [e for row in load_experiment(path).rows for e in row.entries.values()] for path in FILES}
    assert {name for name, found in entries.items() if any(e.published for e in found)} <= {
        *TABLES, *PUBLISHED, *FINE_TUNED, *test_table6.TABLES,
    }  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_ablations_say_what_the_papers_say(name):
    """The published number of every row, and a pre-training that differs from its base in what the row says only."""
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{name}.yaml")
    linear = experiment.columns[0]
    assert [row.entry(linear).published.get("linear/acc1") for row in experiment.rows] == PUBLISHED[name]
    for row in experiment.rows:
        if row.pretrain is None:  # made elsewhere, or cited
            continue
        job = experiment.pretrain[row.pretrain]
        cfg = get_cfg()
        merge_file(cfg, job.config)
        merge_opts(cfg, job.opts)
        check(cfg, world_size=8)
        words = row.name.replace(",", "").split()
        for letter, key in (("m", cfg.MODEL.M), ("K", cfg.MODEL.K), ("T", cfg.MODEL.T)):
            if letter in words:
                assert float(words[words.index(letter) + 2]) == key
        if "MLP" in words:
            assert cfg.MODEL.MLP == ("without" not in words)
        if name.startswith("mocov2_table1"):
            assert cfg.AUG.RECIPE == ("v2" if {"aug+", "epochs"} & set(words) else "v1")


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuned_classifiers_say_what_the_paper_says(name):
    """Published numbers and rates, down to the words that the command gets; a row without weights is from scratch."""
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{name}.yaml")
    plan, (only,) = Plan(experiment, TorchvisionEngine(), ROOT / "tools"), experiment.columns
    found = {}
    for row in experiment.rows:
        published = row.entry(only).published["finetune/acc1"]
        if row.entry(only).run is None:
            found[row.name] = (published, None)
            continue
        (stage,) = plan.chain(only, row, seed=1)
        assert stage.command[1].endswith("tools/finetune.py") and stage.folder.parts[-3:-1] == ("finetune", row.slug)
        file, words = stage.command[3], stage.command[6:]
        assert (stage.command[2], stage.command[4:6]) == ("--config-file", ("--resume", "auto"))
        cfg = load_lincls(file, words, "free")
        check_classifier(cfg)
        assert Path(cfg.MODEL.WEIGHTS) == (row.file or Path("")) and stage.needs == ((row.file,) if row.file else ())
        found[row.name] = (published, cfg.SOLVER.BASE_LR)
    assert found == FINE_TUNED[name]
    assert plan.runner(only) == "finetune" and [m.key for m in only.metrics] == ["finetune/acc1"]


def test_both_columns_of_a_table_start_from_one_pretraining():
    experiment = load_experiment(ROOT / "configs" / "experiments" / "mocov2_table1.yaml")
    imagenet, voc = experiment.columns
    assert [list(row.entry(voc).published.values()) for row in experiment.rows] == [
        [81.3, 53.5, 58.8], [81.5, 55.9, 62.6], [82.0, 56.4, 62.6], [82.2, 56.8, 63.2], [82.5, 57.2, 63.9],
        [82.4, 57.0, 63.6], [82.5, 57.4, 64.0],
    ]  # fmt: skip
    assert (imagenet.probe, voc.probe, imagenet.anew) == ("linear", None, False)
    plan = Plan(experiment, TorchvisionEngine(), ROOT / "tools", rows=("MoCo v1", "supervised"))
    pretrain, convert, *trials = list(plan.stages())
    assert (pretrain.name, convert.name) == ("pre-train 'v1'", "convert 'v1'")
    assert [t.name.split(",")[0] for t in trials[:2]] == [
        "ImageNet: linear of 'MoCo v1'",
        "VOC: fine-tune 'supervised'",
    ]
    assert len(trials) == 1 + 2 * 5  # the supervised network is cited in the probe's column
    made = pretrain.folder / PRETRAINED
    assert convert.inputs["source"] == trials[0].inputs["checkpoint"] == made
    assert trials[0].folder.parts[-4:] == ("imagenet", "linear", "moco-v1", "seed_1")
    assert trials[1].folder.parts[-4:] == ("voc", "torchvision", "supervised", "seed_1")


def test_a_file(tmp_path, small_config):
    e = load_experiment(write(tmp_path, small_config), output=tmp_path / "out")
    assert [row.slug for row in e.rows] == ["random-init", "ours"] and list(column(e).seeds) == [1, 2, 3, 4, 5]
    assert e.rows[1].pretrain == "a" and column(e, e.rows[1]).run.opts == (
        "SOLVER.MAX_ITER",
        "9",
        "MODEL.DEVICE",
        "cpu",
    )
    assert e.pretrain["a"].opts == ("DATA.TRAIN", f"{tmp_path}/out/data/x")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: t", "titel: t", "did you mean title"),
        ("pretrain: a}", "pretrain: b}", "no pre-training is called 'b'"),
        (
            "name: ours",
            "name: Random init",
            "row 1, 'Random init.', and row 2, 'Random init', would share the folder 'random-init'",
        ),
        ("[SOLVER.MAX_ITER, 9]", "[SOLVER.MAX_ITER]", "KEY, VALUE"),
        ("ours, weights: {pretrain: a}", "ours", "'weights' is missing"),
        ("rows:", "trials: 0\nrows:", "trials: is 0; it should be greater than"),
        ("weights: {pretrain: a}", "weights: {}", "either `pretrain` or `file`"),
        (
            "weights: {pretrain: a}",
            "weights: {file: f, cost: {gpu_hours: 0, source: x}}",
            "gpu_hours: is 0; it should be greater",
        ),
        ("weights: {pretrain: a}", "weights: {pretrain: a, cost: {}}", "stands with the pre-training"),
        ("weights: {pretrain: a}", "weights: {pretrain: a, sha256: 0676ba61}", "sha256 is of a `file`"),
        ("weights: {pretrain: a}", "weights: {file: f, sha256: 0676ba6}", "sha256: '0676ba6' is no SHA-256; give"),
        (
            "weights: {pretrain: a}",
            "weights: {file: f, sha256: 06765061}",
            "sha256: .* is no SHA-256; .* in quotation marks",
        ),
        ("weights: {pretrain: a}", "weights: {file: f, sha256: 0676BA61}", "lower-case hex"),
    ],
)
def test_mistakes(tmp_path, small_config, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, small_config, lambda text: text.replace(old, new)))


def test_a_config_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_experiment(write(tmp_path, "gone.yaml"))


def test_a_probed_experiment(tmp_path, small_config):
    """Every row names a pre-training, which each seed does anew."""
    text = GOOD.replace(
        "transfer: {{config: {config}, opts: [SOLVER.MAX_ITER, 9]}}", "probe: {{protocol: knn, opts: [--train, x]}}"
    )
    rows = "rows:\n  - {{name: m = 0, weights: {{pretrain: a}}}}\n"
    path = tmp_path / "e.yaml"
    path.write_text((text[: text.index("rows:")] + rows).format(config=small_config))
    e = load_experiment(path, output=tmp_path / "out")
    assert column(e).probe == "knn" and column(e).anew and column(e, e.rows[0]).run.opts == ("--train", "x")
    path.write_text(path.read_text().replace("pretrain: a}", "pretrain: b}"))
    with pytest.raises(ConfigError, match="no pre-training is called .b. .a."):
        load_experiment(path)
    path.write_text(path.read_text().replace("knn", "svm"))
    with pytest.raises(ConfigError, match="probe.protocol: is 'svm'; it should be 'knn', 'linear' or 'finetune'"):
        load_experiment(path)


LINEAR = """
title: t
probe: {{protocol: linear, config: {config}, opts: [DATA.VAL, v]}}
pretrain: {{a: {{config: {config}}}}}
rows:
  - {{name: ours, weights: {{pretrain: a}}}}
  - {{name: theirs, weights: {{file: theirs.pth}}}}
"""


def test_a_linear_probe(tmp_path, small_config):
    """Rows of a pre-training and of a file: stages, commands, what is missing."""
    path = tmp_path / "e.yaml"
    path.write_text(LINEAR.format(config=small_config))
    experiment = load_experiment(path, output=tmp_path / "out")
    plan = Plan(experiment, engine=None, tools=tmp_path, num_gpus=2)
    assert plan.runner(column(experiment)) == "linear" and [m.key for m in column(experiment).metrics] == [
        "linear/acc1"
    ]
    stages = list(plan.stages())
    assert len(stages) == 5 * 3 and stages[0].name == "pre-train 'a', seed 1"
    assert "--nproc-per-node 2" in stages[1].shell and "linear_eval.py --config-file" in stages[1].shell
    assert "MODEL.WEIGHTS theirs.pth SEED 1 OUTPUT_DIR" in stages[10].shell
    lacking = "\n".join(map(str, missing(plan)))
    assert "weights 'theirs.pth'" in lacking and "labelled images 'v': give DATA.VAL" in lacking
    path.write_text(path.read_text().replace("weights: {file: theirs.pth}", "weights: null"))
    with pytest.raises(ConfigError, match="row 'theirs': frozen features need weights; name a pre-training or a file"):
        load_experiment(path)
    path.write_text(path.read_text().replace("protocol: linear", "protocol: knn"))
    with pytest.raises(ConfigError, match="the protocols linear and finetune need a config, knn has none"):
        load_experiment(path)


def test_a_classifier_from_scratch_says_its_architecture(tmp_path, small_config):
    """Before anything runs: by an option, or by the config."""
    path = tmp_path / "e.yaml"
    text = LINEAR.format(config=small_config).replace("protocol: linear", "protocol: finetune")
    path.write_text(text.replace("weights: {file: theirs.pth}", "weights: null"))
    with pytest.raises(ConfigError, match="row 'theirs': weights are null, so .*; add MODEL.ARCH to opts"):
        load_experiment(path)
    path.write_text(path.read_text().replace("weights: null", "weights: null, opts: [MODEL.ARCH, resnet18]"))
    assert [row.name for _, row in load_experiment(path, output=tmp_path / "out").runs()] == ["ours", "theirs"]


def test_a_file_of_weights_is_the_one_that_is_meant(tmp_path, small_config):
    """SHA-256 in full and its first digits; of another file the error names both, and where to get the right one."""
    file = tmp_path / "theirs.pkl"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()

    def lacking(sha256: str) -> list[str]:
        new = f'weights: {{file: {file}, get: "from there", sha256: "{sha256}"}}'
        path = write(tmp_path, small_config, lambda text: text.replace("weights: {pretrain: a}", new))
        plan = Plan(load_experiment(path, tmp_path / "out"), TorchvisionEngine(), tmp_path, rows=("ours",))
        return [str(m) for m in missing(plan) if "theirs.pkl" in m.what]

    assert lacking(right) == lacking(right[:8]) == []
    for other in ("0" * 64, "00000000"):
        (line,) = lacking(other)
        assert f"its SHA-256 is {right}, not {other}" in line and line.endswith("from there")


def test_known_hashes_stand_with_their_files():
    """torchvision names its files by the first digits of their SHA-256; nothing else is known of a file."""
    rows = [row for path in FILES for row in load_experiment(path).rows if row.file is not None]
    assert {row.sha256 for row in rows if "download.pytorch.org" in row.get} == {"0676ba61"}
    assert all(f"-{row.sha256}." in row.get for row in rows if row.sha256)


def test_auto_scale_reaches_the_trials_and_their_identity(tmp_path, small_config):
    """The command carries it, and the stage's config digest is the scaled config's."""
    experiment = load_experiment(write(tmp_path, small_config), output=tmp_path / "out")
    plain, scaled = (Plan(experiment, TorchvisionEngine(), tmp_path, auto_scale=n) for n in (None, 4))
    a, b = (plan.trial(column(experiment), experiment.rows[0], 1) for plan in (plain, scaled))
    assert "--auto-scale" not in a.shell and "--auto-scale 4" in b.shell
    cfg = scaled.config(small_config, ["SOLVER.MAX_ITER", "9"])
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (4, 0.005, 18)
    assert b.inputs["config"] == digest(cfg) != a.inputs["config"]
