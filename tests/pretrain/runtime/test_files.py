"""Only regular files are read: pipes are not waited for, devices not read, links followed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pretrain.runtime.files import is_regular, open_regular, read_record, read_regular


def test_reads_files_and_links_to_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("grün".encode())
    (tmp_path / "link").symlink_to("a")
    assert read_regular(tmp_path / "link") == "grün".encode() and read_record(tmp_path / "a") == "grün"
    assert is_regular(tmp_path / "link") and not is_regular(tmp_path) and not is_regular("a\0b")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    cases = {
        "pipe": "a named pipe", "zero": "a device", "socket": "a socket", ".": "a folder", "gone": "No such file",
        "loop": "symbolic links", "a\0b": "it is no file name", "\ud800": "it is no file name",
    }  # fmt: skip
    for name, reason in cases.items():
        with pytest.raises(OSError, match=reason):
            open_regular(f"{tmp_path}/{name}")
    listening.close()


def test_large_files_are_refused_where_small_ones_are_expected(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(OSError, match="11 bytes, where at most 10"):
        read_regular(tmp_path / "a", at_most=10)
    assert len(read_regular(tmp_path / "a", at_most=11)) == 11
