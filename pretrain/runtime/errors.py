"""Defines errors that are no fault of the program; every command turns them into one line and an exit code."""

from __future__ import annotations

from pretrain.runtime.wording import visible


class ExpectedError(Exception):
    """A mistake in a command, a config, a file or a data set; its message names the value and the remedy.

    A command prints errors of this kind after `error:`, without a traceback. A subclass per subject also has the
    built-in base class that it has always had (`ValueError`, `RuntimeError`), for code that catches those.
    """

    def __str__(self) -> str:
        return visible(super().__str__())


class ConfigError(ExpectedError, ValueError):
    """A config that cannot be used; the message names the file, the key and the remedy."""


class Preempted(Exception):
    """The run stopped because a signal asked for it; it can be resumed from the checkpoint it has just written."""
