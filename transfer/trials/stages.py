"""A stage: a command, the inputs that define it, the files it makes. Done is what its records say.

A stage's folder holds `stage.json`: its inputs (digests and hashes) and, once it is done, the hashes of its outputs.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.runtime import checkpoint

logger = logging.getLogger(__name__)

RECORD = "stage.json"


class StageError(RuntimeError):
    """A stage that failed; the message names its command and its folder."""


@dataclass(frozen=True)
class Stage:
    """One step of an experiment.

    Attributes:
        name: what the plan and the log call it.
        folder: where it works; its own.
        command: what runs it, as a list of words. It must resume by itself when it is run again after a kill.
        inputs: JSON values that define the result. Equal inputs mean that the result need not be made again.
        outputs: files (relative to the folder) that it leaves.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]

    @property
    def shell(self) -> str:
        return shlex.join(self.command)

    def state(self) -> str:
        """ "done", "started" (same inputs, not finished), "stale" (finished or begun with other inputs) or "new"."""
        record = self._record()
        if record is None:
            return "new"
        if record["inputs"] != json.loads(json.dumps(self.inputs)):
            return "stale"
        hashes = record.get("outputs")
        return "done" if hashes is not None and hashes == self._hashes() else "started"

    def changes(self) -> str:
        """Which inputs differ from the recorded ones."""
        recorded = (self._record() or {"inputs": {}})["inputs"]
        wanted = json.loads(json.dumps(self.inputs))
        return ", ".join(sorted(k for k in {*recorded, *wanted} if recorded.get(k) != wanted.get(k)))

    def run(self) -> None:
        """Runs the command unless the stage is done. What a stale folder holds is kept under another name.

        Raises:
            StageError: the command failed, or did not leave its outputs.
        """
        state = self.state()
        if state == "done":
            logger.info("%s: done before, skipped", self.name)
            return
        if state == "stale":
            logger.info("%s: inputs changed (%s)", self.name, self.changes())
            self._set_aside()
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_json({"inputs": self.inputs}, self.folder / RECORD)
        logger.info("%s: %s", self.name, self.shell)
        code = subprocess.run(self.command).returncode
        if code != 0:
            raise StageError(
                f"{self.name} ended with exit code {code} (folder '{self.folder}'); its command:\n  {self.shell}"
            )
        hashes = self._hashes()
        if hashes is None:
            raise StageError(f"{self.name} left no {' or no '.join(self.outputs)} in '{self.folder}'")
        checkpoint.save_json({"inputs": self.inputs, "outputs": hashes}, self.folder / RECORD)

    def _record(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / RECORD).read_text())
        except FileNotFoundError:
            return None

    def _hashes(self) -> dict[str, str] | None:
        files = [self.folder / name for name in self.outputs]
        if not all(file.is_file() for file in files):
            return None
        return {name: checkpoint.sha256(file) for name, file in zip(self.outputs, files, strict=True)}

    def _set_aside(self) -> None:
        n = 1
        while (other := self.folder.with_name(f"{self.folder.name}.stale{n}")).exists():
            n += 1
        self.folder.rename(other)
        logger.info("%s: the earlier folder is kept as '%s'", self.name, other)
