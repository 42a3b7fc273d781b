"""What can go wrong through no fault of the program: one root class, which every command turns into one line."""

from __future__ import annotations


class ExpectedError(Exception):
    """A mistake in a command, a config, a file or a data set; its message names the value and the remedy.

    Errors of this kind are what a command prints after `error:`, without a traceback. A subclass per subject keeps the
    built-in base class that it has always had (`ValueError`, `RuntimeError`), for code that catches those.
    """
