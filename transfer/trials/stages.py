"""Runs stages: each is a command, the inputs that define it and the files it makes; its record says if it is done.

A stage's folder holds `stage.json`: its inputs (digests and hashes) and, once it is done, the hashes of its outputs.
The version of this package is among the inputs: a new release makes results anew, a new commit does not (every result
names its commit). A command that fails leaves `failed.json`, which is removed when the stage is run again.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pretrain.runtime import checkpoint
from pretrain.runtime.commands import CODES
from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.files import RECORD_BYTES, read_regular
from pretrain.runtime.lock import hold, run_in
from pretrain.runtime.machine import NO_RESOURCE, NO_STORAGE
from pretrain.runtime.preempt import REQUEUE_STATUS
from pretrain.runtime.provenance import digest, file_sha256, package_version
from pretrain.runtime.validation import validate_json
from transfer.convert import sharded
from transfer.trials.failure import forget_failure, read_failure, write_failure

logger = logging.getLogger(__name__)

RECORD = "stage.json"
PENDING = "(known once the stage before it is done)"
CODE = package_version("moco-transfer") or "not installed"
STOPPED = (REQUEUE_STATUS, -signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of a command that was asked to stop

_running: set[int] = set()
_starting = threading.Lock()  # held while a command starts, until its process is among those


class StageError(ExpectedError, RuntimeError):
    """Says that a stage failed; the message names its command and its folder."""


class StageStopped(StageError):
    """Says that a stage's command was asked to stop; running the stage again continues it."""


class _Record(BaseModel):
    """Declares `stage.json`: what a stage was started with, and the hashes of its outputs once it is done."""

    model_config = ConfigDict(strict=True, extra="forbid")

    inputs: dict[str, Any]
    outputs: dict[str, str] = {}


@dataclass(frozen=True)
class Checked:
    """Holds the recorded and the present digest of a stage's input or output; the latter is None if it is gone."""

    what: str
    recorded: str
    now: str | None

    @property
    def state(self) -> str:
        return "gone" if self.now is None else "unchanged" if self.now == self.recorded else "changed"


@dataclass(frozen=True)
class Stage:
    """Describes one step of an experiment.

    Attributes:
        name: its name in the plan and the log.
        folder: the folder it works in, which no other stage shares.
        command: its command as a list of words; it must resume by itself when it is run again after a kill.
        inputs: JSON values that define the result; a Path stands for the file's hash. With equal inputs the result
            need not be made again.
        outputs: files that it makes, relative to the folder.
        kind: "data", "pretrain", "convert" or "trials".
        needs: files that must exist first; other stages make them.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    kind: str = "trials"
    needs: tuple[Path, ...] = ()

    @property
    def shell(self) -> str:
        return shlex.join(self.command)

    def state(self) -> str:
        """Returns "done", "failed", "started" (same inputs, not finished), "stale" (other inputs) or "new"."""
        record = self._record()
        if record is None:
            return "new"
        if record["inputs"] != self._wanted():
            return "stale"
        hashes = record.get("outputs")
        if hashes is not None and hashes == self._hashes():
            return "done"
        return "failed" if read_failure(self.folder) else "started"

    def is_done(self) -> bool:
        """Returns whether the stage's state is "done"; running a stage whose record cannot be read says so."""
        try:
            return self.state() == "done"
        except (StageError, OSError):
            return False

    def changes(self) -> str:
        """Says which inputs differ from the recorded ones."""
        recorded, wanted = (self._record() or {"inputs": {}})["inputs"], self._wanted()
        return ", ".join(sorted(k for k in {*recorded, *wanted} if recorded.get(k) != wanted.get(k)))

    def checked(self) -> list[Checked]:
        """Compares the stage's recorded inputs, and its outputs once it is done, with what is here now.

        Raises:
            StageError: the record cannot be read.
        """
        if (record := self._record()) is None:
            return []
        recorded, wanted, found = record["inputs"], self._wanted(), list[Checked]()
        for name in sorted(recorded):
            now = wanted.get(name)
            gone = now is None or now == PENDING
            file = self.inputs.get(name)
            what = f"{name}: {file}" if isinstance(file, Path) else name
            if recorded[name] not in (None, PENDING):
                found.append(Checked(what, _shown(recorded[name]), None if gone else _shown(now)))
        for name, hashed in record.get("outputs", {}).items():
            file = self.folder / name
            found.append(Checked(str(file), hashed, file_sha256(file) if file.is_file() else None))
        return found

    def run(self, own_session: bool = False) -> None:
        """Runs the command unless the stage is done. A stale folder's content is kept under another name.

        If another process runs the same stage, this waits for it. The command holds the folder's lock too, so that no
        second command starts beside it if this process is killed.

        Args:
            own_session: start the command in its own session, so that signals to this process do not reach it.

        Raises:
            StageStopped: the command was asked to stop.
            StageError: the command failed, or did not leave its outputs.
            LockError: the file system has no locks.
        """
        with hold(self.folder) as lock:
            state = self.state()
            if state == "done":
                logger.info("%s: done before, skipped", self.name)
                return
            if (run := run_in(self.folder)) is not None:  # started by hand: its folder must not be renamed under it
                raise StageError(f"{self.name}: '{self.folder}' is in use by {run}, which runs there; wait for it")
            if state == "stale":
                logger.info("%s: inputs changed (%s)", self.name, self.changes())
                self._set_aside()
            self.folder.mkdir(parents=True, exist_ok=True)
            forget_failure(self.folder)
            wanted = self._wanted()
            checkpoint.save_json({"inputs": wanted}, self.folder / RECORD)
            logger.info("%s: %s", self.name, self.shell)
            code = _execute(self.command, lock, own_session)
            if code in STOPPED:
                raise StageStopped(f"{self.name} was asked to stop (exit code {code}); run it again to continue")
            hashes = self._hashes()
            if code != 0:
                raise self._failed(f"ended with exit code {code}{_meaning(code)}")
            if hashes is None:
                raise self._failed(f"left no {' or no '.join(self.outputs)}")
            checkpoint.save_json({"inputs": wanted, "outputs": hashes}, self.folder / RECORD)

    def _failed(self, what: str) -> StageError:
        """Returns the error to raise, and keeps its reason in the folder unless the command has left a better one."""
        reason = read_failure(self.folder)
        if reason is None:
            write_failure(self.folder, f"the command {what}")
        detail = f": {reason}" if reason else ""
        return StageError(f"{self.name} {what}{detail} (folder '{self.folder}'); its command:\n  {self.shell}")

    def _wanted(self) -> dict[str, Any]:
        """Returns the present inputs as JSON values."""
        values = {k: _hash(v) if isinstance(v, Path) else v for k, v in self.inputs.items()}
        return json.loads(json.dumps(values | {"code": CODE}))

    def _record(self) -> dict[str, Any] | None:
        path = self.folder / RECORD
        try:
            text = read_regular(path, RECORD_BYTES)
        except FileNotFoundError:
            return None
        what = f"'{path}' is no record of a stage"
        record = validate_json(_Record, text, what, StageError, "delete the folder and run again")
        return record.model_dump(exclude_unset=True)

    def _hashes(self) -> dict[str, str] | None:
        files = [self.folder / name for name in self.outputs]
        if not all(file.is_file() for file in files):
            return None
        return {name: file_sha256(file) for name, file in zip(self.outputs, files, strict=True)}

    def _set_aside(self) -> None:
        n = 1
        while (other := self.folder.with_name(f"{self.folder.name}.stale{n}")).exists():
            n += 1
        self.folder.rename(other)
        logger.info("%s: the earlier folder is kept as '%s'", self.name, other)


def _shown(value: Any) -> str:
    """Returns a recorded digest as it is, and any other value as its digest."""
    return value if isinstance(value, str) else digest(value)


def stop_running(grace: float) -> None:
    """Asks this process's running commands to stop, waits `grace` seconds for them, then ends them.

    It reaps no process, so that a signal handler can call it while `Stage.run` waits for the same process.
    """
    until = time.monotonic() + grace
    with _starting:
        running = tuple(_running)
    for pid in running:
        _kill(pid, signal.SIGTERM)
    for pid in running:
        while not _ended(pid):
            if time.monotonic() > until:
                _kill(pid, signal.SIGKILL)
                break
            time.sleep(0.05)


def _execute(command: tuple[str, ...], lock: int, own_session: bool) -> int:
    def start() -> subprocess.Popen[bytes]:
        with _starting:
            process = subprocess.Popen(command, pass_fds=(lock,), start_new_session=own_session)
            _running.add(process.pid)
            return process

    # Signal handlers run in the main thread. Started there, a command could be running and not yet be known to them.
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(start)
        try:
            return started.result().wait()
        except BaseException:  # Ctrl-C, or a signal that ends this process: the command must not go on alone
            if started.exception() is None:
                stop_running(grace=60)
                started.result().wait()
            raise
        finally:
            if started.exception() is None:
                _running.discard(started.result().pid)


def _kill(pid: int, number: int) -> None:
    if not _ended(pid):
        os.kill(pid, number)


def _ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped
        return True


def _meaning(code: int) -> str:
    if code >= 0:
        return f" ({CODES[code]})" if code in (NO_RESOURCE, NO_STORAGE) else ""
    return f" ({signal.Signals(-code).name}{': out of memory?' if code == -signal.SIGKILL else ''})"


def _hash(path: Path) -> str:
    """Returns the first 16 digits of the file's SHA-256."""
    return sharded.sha256(path)[:16] if path.is_file() else PENDING
