"""What no reader sees is written out, in messages, in the log and in errors."""

from __future__ import annotations

import logging

from pretrain.runtime.errors import ConfigError
from pretrain.runtime.wording import VisibleFormatter, visible


def test_hidden_characters_are_written_out() -> None:
    assert visible("grün 猫\u00a0\u200d\n\tx") == "grün 猫\u00a0\u200d\n\tx"
    assert visible("a\x1b[2J\rb\0") == r"a\x1b[2J\rb\x00"
    assert visible("x\u202ecod\u2066.exe\ufeff\ud800\x9b") == r"x\u202ecod\u2066.exe\ufeff\ud800\x9b"


def test_errors_and_log_lines_cannot_move_the_cursor() -> None:
    assert str(ConfigError("class '\x1b[1A\u202e'")) == r"class '\x1b[1A\u202e'"
    record = logging.LogRecord("x", logging.INFO, "", 0, "file '%s'", ("\x1b]0;owned\x07",), None)
    assert VisibleFormatter("%(message)s").format(record) == r"file '\x1b]0;owned\x07'"
