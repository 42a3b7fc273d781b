"""Names with ranges and wildcards, against the files that they were made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.config import ConfigError
from pretrain.runtime.shard_names import expand


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{8..11}.tar", ["8", "9", "10", "11"]),
        ("{008..11}.tar", ["008", "009", "010", "011"]),
        ("{0..1}.tar", ["0", "1"]),
        ("{0..1}-{7..8}.tar", ["0-7", "0-8", "1-7", "1-8"]),
        ("*-{7..8}.tar", ["0-7", "1-7", "0-8", "1-8"]),
        ("{0..1}.tar.tar", ["{0..1}.tar"]),  # a file of this very name
    ],
)
def test_what_a_pattern_stands_for(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in names:
        (tmp_path / f"{name}.tar").touch()
    assert expand(str(tmp_path / pattern)) == [str(tmp_path / f"{name}.tar") for name in names]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{3..1}.tar", "{3..1} goes backwards; write {1..3}"),
        ("{0..1}.tar", "1.tar' does not exist; copy it, or change the pattern"),
        ("*.tgz", "nothing fits"),
        ("gone.tar", "does not exist; give a folder of images, a .txt list or shards"),
        ("{0..99999999}.tar", "more than ten million shards"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "0.tar").touch()
    with pytest.raises(ConfigError) as raised:
        expand(str(tmp_path / pattern))
    assert message in str(raised.value)
