"""Damaged and hostile files through the command: never a crash, never code run, never an output that is not right.

The large run is `FUZZ_COUNT=20000 pytest -m slow --log-cli-level INFO tests/transfer/convert/test_fuzz.py`. Each worker
is a forked process with limited memory and an alarm per file; one that dies fails the test with the number of its case.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import resource
import shutil
import signal
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.runtime.commands import status
from tests.hostile.catalogue import Call
from tests.tools.test_errors import tool
from tests.transfer.convert.checkpoints import put, trunk
from transfer.convert.convert import convert, take

pytestmark = pytest.mark.usefixtures("one_thread")

LOG = logging.getLogger(__name__)
MEMORY = 4 << 30  # bytes on top of what the process has
SECONDS = 120  # per file
HEAD = 1 << 16  # how much of a file's beginning and end counts as its structure


def write_bases(folder: Path) -> dict[str, int | None]:
    """File -> checksum of its trunk, or None for containers without checksums, whose weights nobody can vouch for."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in trunk(18).items()}
    content = {"epoch": 1, "arch": "resnet18", "state_dict": put("module.encoder_q.", state)}
    torch.save(content, folder / "moco.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pkl", "a.pth", "a.safetensors"):
        convert(folder / "moco.pth", folder / name)
        (folder / f"{name}.json").unlink()
    crc = take(folder / "moco.pth").crc
    return {"moco.pth": crc, "a.pkl": crc, "a.pth": crc, "a.safetensors": crc, "legacy.pth": None}


def hostile(rng: random.Random, canary: Path) -> object:
    """Something whose unpickling makes `canary`, or exhausts the reader."""
    return rng.choice([
        lambda: Call(os.mkdir, str(canary)),
        lambda: Call(os.system, f"mkdir {canary}"),
        lambda: Call(eval, f"__import__('os').mkdir({str(canary)!r})"),
        lambda: Call(exec, f"import os; os.mkdir({str(canary)!r})"),
        lambda: Call(getattr, Call(__import__, "os"), "mkdir"),
        lambda: Call(bytearray, 1 << 50),
        lambda: Call(np.ndarray, (1 << 20, 1 << 20)),
        lambda: Call(np.dtype, "O" * rng.randint(1, 50)),
        lambda: Call(torch._utils._rebuild_tensor_v2, torch.zeros(1).untyped_storage(), 0, (9, 9), (0, 0), False, {}),
        lambda: Call(torch.load, str(canary)),
        lambda: {"conv1.weight": Call(open, str(canary), "w")},
    ])()  # fmt: skip


def write_hostile(rng: random.Random, path: Path, canary: Path) -> None:
    bad = hostile(rng, canary)
    content = rng.choice([bad, {"state_dict": {"module.encoder_q.conv1.weight": bad}}, {"model": bad}, [bad], (bad, 1)])
    how = rng.randint(0, 7)
    try:
        if how <= 5:
            path.write_bytes(pickle.dumps(content, protocol=how))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == 6)
    except (TypeError, pickle.PicklingError, RuntimeError):  # what torch.save does not write goes into a zip by hand
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("x/data.pkl", pickle.dumps(Call(os.mkdir, str(canary)), protocol=2))
            z.writestr("x/version", "3")


def spoil(rng: random.Random, path: Path, canary: Path, weights: bool) -> tuple[int, bytes, int]:
    """Damages a file in place; returns (offset, what stood there to the end or for a stretch, size) to mend it.

    Args:
        weights: anywhere; else only at its beginning, where its structure is.
    """
    size = path.stat().st_size
    where = rng.choice([lambda: rng.randrange(min(HEAD, size)), lambda: size - 1 - rng.randrange(min(HEAD, size)),
                        lambda: rng.randrange(size)])()  # fmt: skip
    where = where if weights else rng.randrange(HEAD // 2)
    how = rng.choice(["flip", "flip", "flip", "zero", "splice", "pickle", "truncate"])
    with open(path, "r+b") as f:
        if how == "truncate":
            where = size - rng.choice([1, 10, 1000, HEAD, rng.randrange(1, 1 << 20)])
            f.seek(where)
            old = f.read()
            f.truncate(where)
            return where, old, size
        n = {"flip": 1, "zero": rng.randint(1, 64)}.get(how, rng.randint(4, 200))
        f.seek(where)
        old = f.read(n)
        if how == "flip":
            new = bytes([old[0] ^ (1 << rng.randrange(8))])
        elif how == "zero":
            new = bytes(len(old))
        elif how == "pickle":
            new = (pickle.dumps(Call(os.mkdir, str(canary)), protocol=rng.randint(0, 4)) * 4)[: len(old)]
        else:
            f.seek(rng.randrange(min(HEAD, size - 200)))
            new = f.read(len(old))
        f.seek(where)
        f.write(new)
        return where, old, size


def mend(path: Path, where: int, old: bytes, size: int) -> None:
    with open(path, "r+b") as f:
        f.seek(where)
        f.write(old)
        f.truncate(size)


def one(case: int, folder: Path, bases: dict[str, int | None], main) -> str:
    """Runs the command on one bad file; what happened: "refused" or "the same weights". Anything else is an error."""
    rng = random.Random(case)
    canary, output = folder / "canary", folder / f"out{rng.choice(['.pkl', '.pth', '.safetensors'])}"
    name = rng.choice([*bases, "hostile"])
    path = folder / name
    if name == "hostile":
        write_hostile(rng, path, canary)
    else:
        mended = spoil(rng, path, canary, weights=bases[name] is not None)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = status(main, [str(path), str(output), "--json"])
    finally:
        if name != "hostile":
            mend(path, *mended)
    assert not canary.exists(), "code was run"
    left = {p.name for p in folder.iterdir()} - {*bases, "hostile"}
    if code == 2:
        assert not left, f"left behind: {left}"
        assert any(line.startswith("error: ") and len(line) > 30 for line in err.getvalue().splitlines()), (
            err.getvalue()
        )
        return "refused"
    assert code == 0 and name != "hostile" and left == {output.name, output.name + ".json"}
    if bases[name] is not None:
        assert json.loads(out.getvalue())["metadata"]["tensors_crc32"] == bases[name], "other weights came out"
    output.unlink()
    (folder / (output.name + ".json")).unlink()
    return "the same weights" if bases[name] is not None else "no checksum to hold it against"


def work(cases: range, folder: Path, bases: dict[str, int | None], results) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    torch.set_num_threads(1)
    main = tool("convert-pretrain-to-detectron2").main
    main.__globals__["detectron2_verify"] = lambda: None
    for case in cases:
        signal.alarm(SECONDS)  # its default action ends the process, which the parent sees
        faulthandler.dump_traceback_later(SECONDS - 10)
        try:
            results.send((case, one(case, folder, bases, main)))
        except BaseException:
            results.send((case, traceback.format_exc()))
            return
    signal.alarm(0)


def fuzz(count: int, first: int, tmp_path: Path) -> dict[str, int]:
    """Runs cases `first` to `first + count`; returns how often each outcome came."""
    template = tmp_path / "bases"
    template.mkdir()
    bases = write_bases(template)
    context = multiprocessing.get_context("fork")
    n = 1 if count < 1000 else 2
    waiting, processes = {}, []
    for i in range(n):
        shutil.copytree(template, tmp_path / str(i))
        mine, theirs = context.Pipe(duplex=False)
        cases = range(first + i, first + count, n)
        processes.append(context.Process(target=work, args=(cases, tmp_path / str(i), bases, theirs)))
        processes[-1].start()
        theirs.close()
        waiting[mine] = iter(cases)
    outcomes: dict[str, int] = {}
    while waiting:
        for results in multiprocessing.connection.wait(list(waiting)):
            if (case := next(waiting[results], None)) is None:
                del waiting[results]
                continue
            try:
                got, outcome = results.recv()
            except EOFError:
                codes = [process.join(5) or process.exitcode for process in processes]
                pytest.fail(f"case {case}: the command died (exit codes {codes})")
            assert got == case and "Traceback" not in outcome, f"case {case}: {outcome}"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if sum(outcomes.values()) % 1000 == 0:
                LOG.info("%d files: %s", sum(outcomes.values()), outcomes)
    for process in processes:
        process.join()
    return outcomes


def test_damaged_and_hostile_files(tmp_path):
    outcomes = fuzz(int(os.environ.get("FUZZ_SMALL", "40")), 10**6, tmp_path)
    assert outcomes["refused"] > outcomes.get("the same weights", 0)


@pytest.mark.slow
def test_many_damaged_and_hostile_files(tmp_path):
    count = int(os.environ.get("FUZZ_COUNT", "20000"))
    assert sum(fuzz(count, int(os.environ.get("FUZZ_FIRST", "0")), tmp_path).values()) == count
