"""The SLURM script, run with stand-ins for srun and scontrol: a signal requeues the job, which then finishes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.runtime.result import RunResult
from tests.conftest import ROOT
from tests.pretrain.conftest import TINY, write_images

SRUN = """#!/bin/bash
# the tasks of one node; a signal to this script goes to both, and the highest status is the script's
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & pids[rank]=$!
done
trap 'kill -USR1 ${pids[*]}' USR1
highest=0
for pid in ${pids[*]}; do
  while true; do
    wait $pid; status=$?
    kill -0 $pid 2>/dev/null || break
  done
  [ $status -gt $highest ] && highest=$status
done
exit $highest
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$STAND_INS/requeued"; fi
"""


@pytest.fixture
def submit(tmp_path: Path):
    """Starts the script as SLURM would, with these arguments."""
    python = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", python)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STAND_INS": str(tmp_path), "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NODELIST": "node[1]", "SLURM_JOB_ID": str(4000 + os.getpid()),
    }  # fmt: skip

    def start(*arguments: object, tasks: int = 2) -> subprocess.Popen[bytes]:
        script = ROOT / "docs" / "slurm" / "moco.sbatch"
        words = ["bash", str(script), *map(str, arguments)]
        given = {**environment, "SLURM_NTASKS": str(tasks), "SLURM_NTASKS_PER_NODE": str(tasks)}
        return subprocess.Popen(words, cwd=ROOT, env=given, stderr=subprocess.PIPE, start_new_session=True)

    return start


@pytest.mark.slow
def test_a_signalled_job_is_requeued_and_then_finishes(submit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--config-file", TINY, "DATA.TRAIN", write_images(tmp_path / "images", 80), "OUTPUT_DIR", run,
                 "MODEL.BN_GROUPS", 1, "SOLVER.EPOCHS", 5, "LOG_PERIOD", 1]  # fmt: skip
    job = submit(*arguments)
    try:
        while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < 3:
            assert job.poll() is None, job.stderr.read().decode()
            time.sleep(0.1)
        srun = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0]
        os.kill(int(srun), signal.SIGUSR1)
        _, said = job.communicate(timeout=120)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0, said.decode()
    assert (tmp_path / "requeued").read_text() == f"requeue {4000 + os.getpid()}\n" and not (
        run / "result.json"
    ).exists()

    assert submit(*arguments).wait(timeout=180) == 0
    assert RunResult.load(run).iterations == 50 and (tmp_path / "requeued").read_text().count("\n") == 1


@pytest.mark.slow
def test_a_failure_is_not_requeued(submit, tmp_path: Path) -> None:
    job = submit("--config-file", TINY, "DATA.TRAIN", tmp_path / "absent", "OUTPUT_DIR", tmp_path / "run", tasks=1)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 2 and b"does not exist" in said and not (tmp_path / "requeued").exists()
