"""Keeps in `failed.json` why a stage or a trial did not finish; the file is removed when the work goes on."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from pretrain.runtime import checkpoint
from pretrain.runtime.files import read_record

logger = logging.getLogger(__name__)

FAILED = "failed.json"


def write_failure(folder: Path, reason: str) -> None:
    """Writes the reason to the folder, if the disk permits, since the disk itself may have failed."""
    try:
        checkpoint.save_json({"error": reason, "time": time.strftime("%Y-%m-%d %H:%M:%S")}, folder / FAILED)
    except OSError as error:
        logger.warning("'%s' cannot be written (%s)", folder / FAILED, error.strerror)


def read_failure(folder: Path) -> str | None:
    """Returns the reason on one line; None if nothing failed."""
    try:
        return " ".join(json.loads(read_record(folder / FAILED))["error"].split())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return f"it failed, and '{folder / FAILED}' cannot be read"


def forget_failure(folder: Path) -> None:
    (folder / FAILED).unlink(missing_ok=True)
