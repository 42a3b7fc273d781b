"""Chains through submitit's local executor, with commands that take no time: side by side, killed, put back."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pretrain.runtime import checkpoint
from pretrain.runtime.config import ConfigError
from pretrain.runtime.provenance import package_version
from tests.architectures import options
from tests.conftest import ROOT
from tests.transfer.report import trees
from transfer.config.load import digest
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.report import tables
from transfer.report.collect import collect
from transfer.trials import execute
from transfer.trials.aggregate import Aggregate
from transfer.trials.experiment import load_experiment
from transfer.trials.failure import read_failure
from transfer.trials.gpus import gpu_slots
from transfer.trials.jobs import run_chain
from transfer.trials.launcher import Launcher, parse_options
from transfer.trials.plan import Plan
from transfer.trials.stages import Stage, StageError

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
here = Path(sys.argv[1])
first = not (here / 'began').exists()
(here / 'began').touch()
"""


def stage(folder: Path, code: str, **fields) -> Stage:
    end = "\n(here / 'out').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'none'))\n"
    command = (sys.executable, "-c", PRELUDE + code + end, str(folder))
    return Stage(folder.name, folder, command, {}, ("out",), **fields)


def side_by_side(tmp_path: Path, stages: list[Stage], slots=((), ())) -> dict[str, str]:
    plan = SimpleNamespace(experiment=SimpleNamespace(output=tmp_path))
    outcomes = execute._side_by_side(plan, [(s,) for s in stages], slots)
    assert [o.stage for o in outcomes] == [s.name for s in stages]
    return {o.stage: o.state for o in outcomes}


@pytest.mark.slow
def test_two_at_a_time_each_with_its_gpus(tmp_path):
    """Every command waits until it has seen a second one; none ever sees a third."""
    code = """
alive = here.parent / 'alive'
alive.mkdir(exist_ok=True)
(alive / here.name).touch()
seen = here.parent / ('seen_' + here.name)
until = time.time() + 120
while time.time() < until and len(list(here.parent.glob('*/began'))) < 2:
    time.sleep(0.01)
seen.write_text(str(len(list(alive.iterdir()))))
time.sleep(0.1)
(alive / here.name).unlink()
"""
    stages = [stage(tmp_path / name, code) for name in "abc"]
    assert side_by_side(tmp_path, stages, [(3,), (5,)]) == dict.fromkeys("abc", "done")
    assert {int((tmp_path / f"seen_{name}").read_text()) for name in "abc"} <= {1, 2}
    gpus = {name: (tmp_path / name / "out").read_text() for name in "abc"}
    assert {gpus["a"], gpus["b"]} == {"3", "5"} and gpus["c"] in ("3", "5")


@pytest.mark.parametrize(("given", "expected"), [(None, str(max(1, len(os.sched_getaffinity(0)) // 2))), ("7", "7")])
def test_jobs_share_the_cores_and_can_be_cancelled(tmp_path, monkeypatch, request, given, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    code = """
(here.parent / 'threads').write_text(os.environ['OMP_NUM_THREADS'])
(here.parent / 'ignored').write_text(str(signal.getsignal(signal.SIGINT) == signal.SIG_IGN))
"""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    assert side_by_side(tmp_path, [stage(tmp_path / "a", code)]) == {"a": "done"}
    assert (tmp_path / "threads").read_text() == expected
    assert (tmp_path / "ignored").read_text() == "False"
    assert os.environ.get("OMP_NUM_THREADS") == given and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.slow
def test_what_is_preempted_killed_or_stops_itself_runs_again_and_a_failure_stops_nothing(tmp_path):
    preempted = """
def leave(*_):
    (here / 'checkpoint').touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
if first:
    os.kill(os.getppid(), signal.SIGUSR2)  # what SLURM sends to the job before it ends it
    time.sleep(120)
assert (here / 'checkpoint').exists()
"""
    stages = [
        stage(tmp_path / "preempted", preempted),
        stage(tmp_path / "killed", "if first: os.kill(os.getppid(), signal.SIGKILL); sys.exit(1)"),
        stage(tmp_path / "failed", "sys.exit('no')"),
        stage(tmp_path / "stops", "if first: sys.exit(75)"),
    ]
    states = side_by_side(tmp_path, stages)
    assert states == {"preempted": "done", "killed": "done", "failed": "failed", "stops": "done"}
    assert "exit code 1" in (read_failure(tmp_path / "failed") or "")
    assert [s.state() for s in stages] == ["done", "done", "failed", "done"]


def test_a_chain_goes_no_further_than_its_first_failure(tmp_path):
    a, b, c = (stage(tmp_path / name, code) for name, code in (("a", ""), ("b", "sys.exit(75)"), ("c", "")))
    assert [o.state for o in run_chain([a, b, c])] == ["done", "stopped", "blocked"]
    assert not (tmp_path / "c").exists()
    waits = stage(tmp_path / "d", "", needs=(tmp_path / "trunk.pkl",))
    (outcome,) = run_chain([waits])
    assert outcome.state == "blocked" and "trunk.pkl' was not made" in outcome.error
    (tmp_path / "trunk.pkl").touch()
    assert run_chain([waits])[0].state == "done"


def test_slots(monkeypatch):
    assert gpu_slots(1, 0) == [()] and gpu_slots(8, 3) == [(), (), ()]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_slots(8, 0) == [()] and gpu_slots(4, 0) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,3,2,1,0")
    assert gpu_slots(2, 3) == [(7, 6), (5, 4), (3, 2)]
    with pytest.raises(ConfigError, match="3 jobs of 4 GPUs side by side, but there are 8"):
        gpu_slots(4, 3)
    assert gpu_slots(4, 3, per_gpu=2) == [(7, 6, 5, 4), (3, 2, 1, 0), (7, 6, 5, 4)] and len(gpu_slots(1, 0, 2)) == 16
    with pytest.raises(ConfigError, match="17 jobs .* lower --jobs, or let them share with --jobs-per-gpu 3$"):
        gpu_slots(1, 17, per_gpu=2)
    assert len(gpu_slots(1, 17, per_gpu=3)) == 17
    with pytest.raises(ConfigError, match="2 jobs of 9 GPUs side by side, but there are 8: lower --num-gpus$"):
        gpu_slots(9, 2)
    with pytest.raises(ConfigError, match="3 jobs of 5 .* --jobs-per-gpu 3$"):
        gpu_slots(5, 3)
    assert gpu_slots(5, 3, per_gpu=3) == [(7, 6, 5, 4, 3)] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e,GPU-f,GPU-g,GPU-h")
    with pytest.raises(ConfigError, match="by number"):
        gpu_slots(4, 0)


def test_without_submitit_gpus_are_not_shared_out_unless_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert gpu_slots(1, 0) == [()]
    assert len(gpu_slots(1, 2)) == 2
    with pytest.raises(ConfigError, match="pip install submitit"):
        execute._submitit()


def test_options():
    options = parse_options(["partition=gpu", "timeout_min=90", "slurm_qos=low", "constraint=v100"])
    assert options == {
        "slurm_partition": "gpu", "timeout_min": 90, "slurm_qos": "low", "slurm_constraint": "v100",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="give KEY=VALUE"):
        parse_options(["gpu"])
    for word, message in (
        ("=gpu", "give KEY=VALUE"),
        ("timeout_min=soon", "--slurm: timeout_min: is 'soon'; it should be a valid integer"),
        ("nodes=0", "nodes: is 0; it should be greater than or equal to 1"),
        ("mem_gb=NaN", "mem_gb: is nan; it should be greater than 0"),
        ("partition=[1]", "slurm_partition: is .1.; it should be a valid string or be a valid integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_options([word])
    with pytest.raises(ConfigError, match="need --launcher slurm"):
        Launcher("local", options=options)
    with pytest.raises(ConfigError, match="--jobs-per-gpu 0"):
        Launcher(per_gpu=0)
    with pytest.raises(ConfigError, match="--jobs-per-gpu 2: SLURM"):
        Launcher("slurm", per_gpu=2)
    with pytest.raises(ConfigError, match="--jobs -1"):
        Launcher(jobs=-1)
    with pytest.raises(ConfigError, match="choose local or slurm"):
        Launcher("pbs")


@pytest.mark.slow
def test_slurm_gets_one_array(tmp_path, monkeypatch):
    """A stand-in for sbatch starts the array's jobs at once, as its script says."""
    commands = tmp_path / "bin"
    commands.mkdir()
    sbatch = f"""#!{sys.executable}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
open({str(tmp_path / "script")!r}, 'w').write(script)
found = re.search('--array=0-([0-9]+)', script)
log = open({str(tmp_path / "log")!r}, 'a')
for i in range(int(found[1]) + 1 if found else 1):
    array = dict(SLURM_ARRAY_JOB_ID='77', SLURM_ARRAY_TASK_ID=str(i)) if found else dict()
    env = os.environ | dict(SLURM_JOB_ID=str(77 + i), SLURM_PROCID='0', SLURM_LOCALID='0', SLURM_NODEID='0') | array
    env |= dict(SLURM_NTASKS='1', SLURM_JOB_NUM_NODES='1')
    subprocess.Popen(['bash', sys.argv[-1]], env=env, stdout=log, stderr=log, start_new_session=True)
print('Submitted batch job 77')
"""
    srun = '#!/bin/bash\nwhile [[ $1 != */python* ]]; do shift; done\nexec "$@"\n'
    for name, text in (("sbatch", sbatch), ("srun", srun), ("sacct", "#!/bin/bash\necho 'JobID|State'\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    stages = [stage(tmp_path / "a", ""), stage(tmp_path / "b", "sys.exit(3)"), stage(tmp_path / "before", "")]
    stages[2].run()
    plan = SimpleNamespace(experiment=SimpleNamespace(output=tmp_path), num_gpus=4)
    launcher = Launcher("slurm", jobs=2, options=parse_options(["partition=gpu", "timeout_min=600"]))
    outcomes = execute._on_slurm(plan, [(s,) for s in stages], launcher)
    assert {o.stage: o.state for o in outcomes} == {"before": "done", "a": "done", "b": "failed"}
    script = (tmp_path / "script").read_text()
    for words in ("--array=0-1%2", "--gpus-per-node=4", "--partition=gpu", "--time=600", "--signal=USR2@300"):
        assert words in script


def test_a_parameter_that_sbatch_does_not_have(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    plan = SimpleNamespace(experiment=SimpleNamespace(output=tmp_path), num_gpus=1)
    with pytest.raises(ConfigError, match="--slurm: .*partitionn"):
        execute._on_slurm(
            plan, [(stage(tmp_path / "a", ""),)], Launcher("slurm", options=parse_options(["partitionn=g"]))
        )


def test_a_damaged_record_is_said(tmp_path):
    s = stage(tmp_path / "a", "")
    s.run()
    for text in ("{", "[]", "{}", '{"inputs": 3}', '{"inputs": {}, "outputs": {"x": 1}}'):
        (tmp_path / "a" / "stage.json").write_text(text)
        with pytest.raises(StageError, match="stage.json' is no record of a stage.*; delete the folder and run again"):
            s.state()


def test_record_names_the_package_version(tmp_path):
    s = stage(tmp_path / "a", "")
    s.run()
    assert json.loads((tmp_path / "a" / "stage.json").read_text())["inputs"] == {
        "code": package_version("moco-transfer")
    }


@pytest.mark.slow
def test_a_small_experiment_side_by_side(tmp_path, generated):
    """Two real trials at a time, in two processes; one invocation more runs nothing."""
    given = options("R18-C4", generated, tmp_path)
    pairs = [pair for pair in zip(given[::2], given[1::2], strict=True) if pair[0] != "OUTPUT_DIR"]
    short = [word for pair in pairs for word in pair]
    short += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1", "TEST.EVAL_PERIOD", "0"]
    rows = [{"name": "random", "weights": None, "opts": short}]
    file = trees.experiment_file(tmp_path, generated, trials=2, rows=rows, pretrain={})
    plan = Plan(load_experiment(file), TorchvisionEngine(), ROOT / "tools")
    first = execute.run(plan, Launcher(jobs=2))
    assert [o.state for o in first] == ["done", "done"], first
    row = plan.row_folder(plan.experiment.columns[0], plan.experiment.rows[0])
    before = (row / "trials.json").stat().st_mtime_ns, (row / "seed_1" / "result.json").stat().st_mtime_ns
    assert len(list((tmp_path / "out" / "jobs").glob("*_submitted.pkl"))) == 2
    assert execute.run(plan, Launcher(jobs=2)) == first
    assert (row / "seed_1" / "result.json").stat().st_mtime_ns == before[1]
    assert "2" in tables.text(collect(plan)) and "±" in tables.text(collect(plan))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_what_this_machine_cannot_train_is_refused_before_the_first_stage(tmp_path, generated, monkeypatch):
    """Not on a login node, whose jobs run elsewhere; not of rows that are finished."""
    mixed = ["SOLVER.AMP.ENABLED", "True"]
    rows = [{"name": "random", "weights": None}, {"name": "half", "weights": {"pretrain": "moco"}, "opts": mixed}]
    tiny = {"config": str(ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")}
    tiny["opts"] = ["DATA.TRAIN", str(generated / "iconic" / "train")]
    file = trees.experiment_file(tmp_path, generated, trials=1, rows=rows, pretrain={"moco": tiny})
    plan = Plan(load_experiment(file), TorchvisionEngine(), ROOT / "tools")
    began = []
    monkeypatch.setattr(execute, "run_chain", lambda chain, begin: began.append(chain) or [])
    monkeypatch.setattr(execute, "_on_slurm", lambda plan, chains, launcher: began.append(chains) or [])
    monkeypatch.setattr(execute, "_rows", lambda plan: [])
    with pytest.raises(ConfigError, match="row 'half' cannot train here: SOLVER.AMP.ENABLED in fp16 needs a GPU"):
        execute.run(plan)
    assert not began
    execute.run(plan, Launcher("slurm", 1))
    assert began
    execute.run(dataclasses.replace(plan, only=("pretrain",)))
    column, row = plan.experiment.columns[0], plan.experiment.rows[1]
    job, folder = row.job(column), plan.row_folder(column, row)
    whole = Aggregate("torchvision", digest(plan.config(job.config, job.opts)), "ab", (1,), {})
    checkpoint.save_json(dataclasses.replace(whole, config_digest="old").to_json(), folder / "trials.json")
    with pytest.raises(ConfigError, match="row 'half' cannot train here"):
        execute.run(plan)
    checkpoint.save_json(whole.to_json(), folder / "trials.json")
    execute.run(plan)


def test_a_stage_that_cannot_be_read_or_made_stops_no_other(tmp_path):
    """Whether its chain runs here or as a job, which is asked beforehand whether it is done."""
    stages = [
        Stage(name, tmp_path / name, (sys.executable, "-c", ""), {}, ()) for name in ("damaged", "a file", "fine")
    ]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "stage.json").write_text('{"inp')
    (tmp_path / "a file").write_text("")
    outcomes = [run_chain((stage,))[0] for stage in stages]
    assert [outcome.state for outcome in outcomes] == ["failed", "failed", "done"]
    assert "is no record of a stage" in outcomes[0].error and "a file" in outcomes[1].error
    done, works = execute._not_done([(stage,) for stage in stages])
    assert [work.name for work in works] == ["damaged", "a file"] and [outcome.stage for outcome in done] == ["fine"]
    assert [outcome.state for work in works for outcome in work.lost("killed")] == ["failed", "failed"]


def test_where_a_job_is(tmp_path):
    stages = [SimpleNamespace(name=name) for name in ("pre-train 'moco'", "knn of 'MoCo', seed 1")]
    work, log = execute.Work(stages), tmp_path / "log"
    assert execute._how_far(work, log) == "knn of 'MoCo', seed 1: ..."
    log.write_text(
        "I pretrain: 100 images\npretrain:  10%|#  | 1/10\rpretrain:  90%|######## | 9/10\ndetect voc_a.b:   5%|# | 1/2"
    )
    assert execute._how_far(work, log) == "knn of 'MoCo', seed 1: detect voc_a.b 5%"
