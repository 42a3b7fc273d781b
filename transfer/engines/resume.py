"""Decides whether and from what a run continues, and whether it is still the same training, on both engines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError, dotted_keys, to_dict, value_at
from pretrain.runtime.files import read_record
from pretrain.runtime.provenance import config_digest
from pretrain.runtime.result import FILE_NAME
from pretrain.runtime.strict_yaml import load_yaml
from pretrain.runtime.wording import short
from transfer.config.load import ADDED, NOT_IN_DIGEST, digest
from transfer.engines.base import FINAL_WEIGHTS, LAST_CHECKPOINT, EngineError

logger = logging.getLogger(__name__)

BEGUN = "begun.json"  # what a run began with
_NAME = re.compile(r"model_(?:\d{7}|final)\.pth")  # of a checkpoint, as both engines name them
RECORD = "resumed.json"  # where a run was continued with another schedule, and what was changed
SCHEDULE = ("SOLVER.MAX_ITER", "SOLVER.STEPS")
"""What may change when a run goes on: it is trained longer. The iterations before stay what they were."""
_FREE = {
    *NOT_IN_DIGEST, "DATASETS.TEST", "TEST.EXPECTED_RESULTS", "TEST.EVAL_PERIOD", "TEST.DETECTIONS_PER_IMAGE",
    "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST", "MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Records one continuation under another schedule.

    Attributes:
        iteration: number of iterations done when the run was continued.
        keys: key -> its value before and after.
        past: whether the iterations before would have run differently under the new values.
    """

    iteration: int
    keys: Mapping[str, tuple[Any, Any]]
    past: bool

    @property
    def words(self) -> str:
        """Returns a line for the notes of a result."""
        changes = ", ".join(f"{key} {short(old)} -> {short(new)}" for key, (old, new) in self.keys.items())
        return f"continued after {self.iteration} iterations with another schedule: {changes}"


def check_resume(output_dir: Path, resume: str) -> bool:
    """Returns whether to continue from a checkpoint in `output_dir`.

    Raises:
        EngineError: `resume="must"` and there is nothing to continue from; `resume="no"` and there is something
            that a fresh run would overwrite; or no checkpoint is whole.
    """
    if resume not in ("no", "must", "auto"):
        raise ValueError(f"resume must be no, must or auto, not {resume!r}")
    found = (output_dir / LAST_CHECKPOINT).is_file()
    if resume == "must" and not found:
        raise EngineError(f"--resume: no checkpoint in '{output_dir}'; drop --resume or use --resume auto")
    if resume == "no" and found:
        raise EngineError(
            f"'{output_dir}' holds the checkpoint of an earlier run; continue it with --resume, or choose another "
            "OUTPUT_DIR"
        )
    if not found:
        return False
    problem: str | None = None
    if dist.is_main():
        try:
            _point_to_a_whole_one(output_dir)
        except EngineError as error:
            problem = str(error)
    if (problem := dist.broadcast_object(problem)) is not None:
        raise EngineError(problem)
    return True


def check_evaluation(output_dir: Path) -> None:
    """Refuses to evaluate in the folder of a training, whose config and result would be lost, and with it --resume.

    Raises:
        EngineError: `output_dir` holds a training.
    """
    if any((output_dir / name).is_file() for name in (BEGUN, LAST_CHECKPOINT)):
        raise EngineError(
            f"--eval-only: '{output_dir}' holds a training, whose config and result an evaluation would replace; give "
            f"another folder, e.g. OUTPUT_DIR {output_dir / 'evaluated'}"
        )


def _point_to_a_whole_one(output_dir: Path) -> None:
    """Makes `last_checkpoint` name a whole checkpoint of this folder that holds nothing but data.

    Detectron2 unpickles whatever the file names, wherever that lies. If it names no file of the run, or one that is
    missing, cut short or asks for more than data, the newest whole checkpoint takes its place, with a warning.

    Raises:
        EngineError: there is no whole checkpoint.
    """
    pointer = output_dir / LAST_CHECKPOINT
    named = pointer.read_bytes()[:1000].decode(errors="replace").strip()
    there = sorted((path.name for path in output_dir.glob("model_*.pth") if _NAME.fullmatch(path.name)), reverse=True)
    reasons = [] if _NAME.fullmatch(named) else [f"'{pointer}' names {short(named)}, no checkpoint of this folder"]
    for name in dict.fromkeys([*([] if reasons else [named]), *there]):
        try:
            state = checkpoint.load(output_dir / name)
        except checkpoint.CheckpointError as error:
            reasons.append(str(error))
            continue
        if not isinstance(state, dict) or "iteration" not in state or not {"optimizer", "trainer"} & state.keys():
            reasons.append(f"'{output_dir / name}' holds weights alone")
            continue
        if name != named:
            logger.warning("%s; going on from '%s'", "; ".join(reasons), output_dir / name)
            with checkpoint.atomic_write(pointer, "w") as f:
                f.write(name)
        return
    raise EngineError(
        f"--resume: no checkpoint in '{output_dir}' can be gone on from: {'; '.join(reasons)}. Restore one, or remove "
        f"'{pointer}' to begin anew"
    )


def changed_keys(cfg: CfgNode, output_dir: Path) -> dict[str, tuple[Any, Any]]:
    """Compares a config with the one that the run in `output_dir` began with.

    Returns:
        The keys of `SCHEDULE` that changed, with the value before and after.

    Raises:
        EngineError: other keys that training depends on changed; the message names all of them.
    """
    path = output_dir / "config.yaml"
    try:
        before = load_yaml(path) if path.exists() else None
    except ConfigError:
        raise EngineError(
            f"--resume: '{path}' cannot be read; restore it, remove it, or choose another OUTPUT_DIR"
        ) from None
    if before is None:
        return {}  # a folder of Detectron2's own, or one that lost it: nothing to hold it against
    now = to_dict(cfg)
    changed: dict[str, tuple[Any, Any]] = {}
    for key in dotted_keys(now):
        try:
            old = value_at(before, key)
        except (KeyError, TypeError):  # a key that the version before had not
            if key not in ADDED:
                continue
            old = ADDED[key]
        if to_dict(old) != value_at(now, key):
            changed[key] = (old, value_at(now, key))
    for key in [key for key in SCHEDULE if key in changed and not _is_schedule(key, changed[key][0])]:
        raise EngineError(
            f"--resume: '{path}' is damaged, {key} is {short(changed[key][0])}; restore it, remove it, or choose "
            "another OUTPUT_DIR"
        )
    seed = before.get("SEED")
    free = {key for key in changed if key in _FREE} - ({"SEED"} if isinstance(seed, int) and seed >= 0 else set())
    refused = {key: values for key, values in changed.items() if key not in (*SCHEDULE, *free)}
    if refused:
        lines = "; ".join(f"{key} was {short(old)} and is {short(new)}" for key, (old, new) in refused.items())
        raise EngineError(
            f"--resume: the run in '{output_dir}' began with another config ({lines}): set it as it was, or choose "
            "another OUTPUT_DIR"
        )
    return {key: values for key, values in changed.items() if key in SCHEDULE}


def _is_schedule(key: str, value: Any) -> bool:
    """Returns whether a value read from a file can be that of a key of `SCHEDULE`."""
    if key == "SOLVER.STEPS":
        return isinstance(value, list | tuple) and all(isinstance(step, int | float) for step in value)
    return isinstance(value, int)


def record_change(cfg: CfgNode, output_dir: Path, changed: Mapping[str, tuple[Any, Any]], done: int) -> None:
    """Records in the run's folder that it continues after `done` iterations under another schedule.

    Raises:
        ConfigError: the run is already longer than SOLVER.MAX_ITER.
    """
    if done > cfg.SOLVER.MAX_ITER:
        raise ConfigError(
            f"--resume: '{output_dir}' has {done} iterations behind it, but SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}: "
            "raise it, or choose another OUTPUT_DIR"
        )
    if not changed or not dist.is_main():
        return
    old_steps, new_steps = changed.get("SOLVER.STEPS", (cfg.SOLVER.STEPS, cfg.SOLVER.STEPS))
    past = [s for s in old_steps if s < done] != [s for s in new_steps if s < done]
    past = past or cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupMultiStepLR"
    earlier = [vars(change) for change in changes(output_dir)]
    checkpoint.save_json([*earlier, vars(Change(done, changed, past))], output_dir / RECORD)


def changes(output_dir: Path) -> list[Change]:
    """Returns the continuations of the run in `output_dir` under other schedules."""
    try:
        found = json.loads(read_record(output_dir / RECORD))
        return [Change(c["iteration"], {k: tuple(v) for k, v in c["keys"].items()}, c["past"]) for c in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"'{output_dir / RECORD}' cannot be read ({error}); restore it, or begin anew") from None


def run_digest(cfg: CfgNode, found: Sequence[Change]) -> str:
    """Returns a digest of what was trained: the config's own, unless part of the run had another schedule."""
    others = [{"iteration": c.iteration, "keys": dict(c.keys)} for c in found if c.past]
    return config_digest({"config": digest(cfg), "continued": others}) if others else digest(cfg)


def check_weights(output_dir: Path, sha256: str | None) -> None:
    """Compares the initial weights with those that the run in `output_dir` began with, which its result will name.

    Args:
        sha256: hash of the file that MODEL.WEIGHTS names now; None for random weights.

    Raises:
        EngineError: the weights differ.
    """
    try:
        before = json.loads(read_record(output_dir / BEGUN))["weights_sha256"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return  # begun by Detectron2's own tools, or by a version that did not say
    if isinstance(before, str | None) and before != sha256:
        was, now = (f"weights of sha256 {s[:12]}" if s else "random weights" for s in (before, sha256))
        raise EngineError(
            f"--resume: the run in '{output_dir}' began with {was}, but MODEL.WEIGHTS gives {now}: set it as it was, "
            "or choose another OUTPUT_DIR"
        )


def begin(output_dir: Path, resuming: bool, sha256: str | None) -> None:
    """Removes files that describe another run than the one that begins or continues now; records its weights."""
    if not dist.is_main():
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in (FILE_NAME, FINAL_WEIGHTS, *(() if resuming else (RECORD,))):
        (output_dir / name).unlink(missing_ok=True)
    if not resuming:
        checkpoint.save_json({"weights_sha256": sha256}, output_dir / BEGUN)
