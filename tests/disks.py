"""Disks that fail at a chosen moment."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pretrain.runtime import checkpoint


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Lets `os.fsync` or `os.replace` of files that are written fail as on a full disk, from this call on, from 1."""
    real, calls = getattr(checkpoint.os, call), []

    def failing(*args: Any) -> None:
        calls.append(args)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, "No space left on device", *args[:1] if call == "replace" else ())
        real(*args)

    monkeypatch.setattr(checkpoint.os, call, failing)
