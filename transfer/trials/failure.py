"""`failed.json`: why a stage or a trial did not finish. It goes when the work is taken up again."""

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
    """Keeps the reason in the folder, if the disk lets it: what has failed may be the disk."""
    try:
        checkpoint.save_json({"error": reason, "time": time.strftime("%Y-%m-%d %H:%M:%S")}, folder / FAILED)
    except OSError as error:
        logger.warning("'%s' cannot be written (%s)", folder / FAILED, error.strerror)


def read_failure(folder: Path) -> str | None:
    """The reason, on one line; None if nothing failed."""
    try:
        return " ".join(json.loads(read_record(folder / FAILED))["error"].split())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return f"it failed, and '{folder / FAILED}' cannot be read"


def forget_failure(folder: Path) -> None:
    (folder / FAILED).unlink(missing_ok=True)
