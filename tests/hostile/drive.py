"""Feeds hostile files to the readers, each in a process that is ended after 20 s, and counts what happens."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pretrain.runtime import commands
from pretrain.runtime.log import progress
from tests.hostile import corpus
from tests.hostile.tree import Reader
from tests.tools.test_errors import tool

SECONDS = 20
MEMORY = 6 << 30  # bytes on top of what the process has
_RAISED, _STOPPED = 99, 98
_ESCAPES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x9b\u202a-\u202e\u2066-\u2069]|\x1b(?!\\[A)")


def complaint(reader: Reader, root: Path) -> str:
    """Why nothing would be learnt from hostile files: no valid one is there, or the command fails on valid ones."""
    _copy(reader, root)
    if not (root / reader.target).exists():
        shutil.rmtree(root / "out")
        return f"{reader.tool} {reader.target}: the tree has no such file"
    code, said = _run(reader, root)
    shutil.rmtree(root / "out")
    return f"{reader.tool} {reader.target}: code {code}\n{said[-800:]}" if code else ""


def _copy(reader: Reader, root: Path) -> None:
    for source, copy in reader.copied:
        shutil.copytree(root / source, root / copy)
    (root / "out").mkdir(exist_ok=True)


def outcome(reader: Reader, number: int, root: Path) -> tuple[str, str]:
    """What a command makes of a file ("accepted", "refused", or what must not be), and what it said."""
    _copy(reader, root)
    target, canary = root / reader.target, root / "canary"
    target.parent.mkdir(parents=True, exist_ok=True)
    valid = target.read_bytes() if target.is_file() else b""
    what = corpus.write(target, reader.kind, valid, number, canary)
    before = _tree(root)
    code, said = _run(reader, root)
    after = _tree(root)
    ran = canary.exists()
    changed = [str(path) for path in {**before, **after} if before.get(path) != after.get(path)]
    outside = [path for path in changed if not path.startswith(("out", "home", "canary"))]
    _restore(root, target, valid, changed)
    where = f"{reader.tool} {reader.target} [{number}: {what}]"
    if ran:
        return "execution", where
    if outside:
        return "outside write", f"{where} {outside[:3]}"
    if code == -signal.SIGALRM:
        return "hang", where
    if code not in (*commands.CODES, 1) or "Traceback (most recent call last)" in said:
        return "traceback", f"{where} code {code}\n{said[-1800:]}"
    if found := _ESCAPES.search(said):
        return "hidden character", f"{where} {found[0]!r} in {said[max(0, found.start() - 100) : found.end() + 20]!r}"
    if code and not said.strip():
        return "silence", where
    return ("refused" if code else "accepted"), where


def _run(reader: Reader, root: Path) -> tuple[int, str]:
    """The exit code of the command, or -N of the signal that ended it, and what it wrote to both streams."""
    log = root / "home" / "said"
    log.parent.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        code = _RAISED
        try:
            signal.alarm(SECONDS)  # its default action ends the process
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(stream, number)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", 1, "utf-8", "backslashreplace") for _ in "oe")
            os.chdir(root / "home")
            os.environ |= {"HOME": str(root / "home"), "TMPDIR": str(root / "home")}
            code = commands.status(tool(reader.tool).main, reader.argv(root))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else _STOPPED
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, log.read_bytes().decode("utf-8", "replace")


def _tree(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below the root and its parent folder: kind, size and time of change."""
    found = {}
    for folder, _, files in os.walk(root.parent):
        for name in files:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            found[os.path.relpath(path, root)] = (state.st_mode, state.st_size, state.st_mtime_ns)
    return {path: state for path, state in found.items() if not re.match(r"\.\./\d", path)}


def _restore(root: Path, target: Path, valid: bytes, changed: Sequence[str]) -> None:
    shutil.rmtree(root / "out", ignore_errors=True)
    shutil.rmtree(root / "canary", ignore_errors=True)
    (root / "canary").unlink(missing_ok=True) if os.path.lexists(root / "canary") else None
    for path in changed:
        if not os.path.relpath(root / path, root).startswith(("out", "home")) and path != str(target.relative_to(root)):
            (root / path).unlink(missing_ok=True)
    if str(target.relative_to(root)).startswith("out"):
        return
    if target.is_dir() and not target.is_symlink():
        target.rmdir()
    target.unlink(missing_ok=True)
    target.write_bytes(valid)


def table(found: dict[str, Counter[str]]) -> str:
    """A line per reader: files, and how many came to what."""
    heads = ("accepted", "refused", "traceback", "hang", "execution", "outside write", "hidden character", "silence")
    lines = [f"{'reader':<32}{'files':>6}" + "".join(f"{head:>17}" for head in heads)]
    total: Counter[str] = Counter()
    for name, counts in sorted(found.items()):
        total += counts
        lines.append(f"{name:<32}{sum(counts.values()):>6}" + "".join(f"{counts[head]:>17}" for head in heads))
    return "\n".join([*lines, f"{'all':<32}{sum(total.values()):>6}" + "".join(f"{total[head]:>17}" for head in heads)])


def feed(chosen: Sequence[tuple[Reader, int]], root: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts per reader, and in words what must not be, as it is found."""
    found: dict[str, Counter[str]] = {}
    wrong = []
    bar = progress(len(chosen), "hostile files", "file")
    for reader, number in chosen:
        started = time.monotonic()
        kind, words = outcome(reader, number, root)
        name = f"{reader.tool} ({reader.kind})"
        found.setdefault(name, Counter())[kind] += 1
        if kind not in ("accepted", "refused"):
            wrong.append(f"{kind}: {words}")
            sys.stderr.write(f"{kind}: {words}\n")
        elif time.monotonic() - started > SECONDS / 2:
            sys.stderr.write(f"slow: {words} {time.monotonic() - started:.1f} s\n")
        bar.update()
    bar.close()
    return found, wrong
