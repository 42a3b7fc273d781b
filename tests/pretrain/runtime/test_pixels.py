"""The one opener of images: pixel formats alone, regular files, no bombs; errors name the file."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.decode import BadImageError, decode_array
from pretrain.runtime.pixels import FORMATS, ImageFileError, opened
from tests.conftest import ROOT


def png(width: int, height: int, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_of_pixels_open_by_their_content(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (5, 3), (200, 0, 0)).save(tmp_path / "a.bin", kind)
    for source in (tmp_path / "a.bin", (tmp_path / "a.bin").read_bytes()):
        with opened(source) as image:
            assert image.size == (5, 3) and np.asarray(image.convert("RGB")).shape == (3, 5, 3)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "page.eps")
    (tmp_path / "page.eps").rename(tmp_path / "page.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    (tmp_path / "bomb.png").write_bytes(png(200_000, 200_000))
    (tmp_path / "large.png").write_bytes(png(30_000, 20_000))
    cases = {
        "page.jpg": "it is no BMP, GIF,", "pipe.jpg": "a named pipe", "zero.jpg": "a device", "cut.jpg": "[Tt]runcated",
        "bomb.png": "pixels", "large.png": "pixels", "gone.jpg": "No such file",
    }  # fmt: skip
    for name, reason in cases.items():
        with pytest.raises(ImageFileError, match=f"cannot read image '{tmp_path}/{name}'.*{reason}"):
            with opened(tmp_path / name) as image:
                image.load()


def test_a_jpeg_that_claims_too_much_is_no_affair_of_opencv(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"  # 65535 x 65535 pixels, 12 GB decoded
    with pytest.raises(BadImageError, match="a.jpg.*pixels"):
        decode_array(bytes(data), "a.jpg")


def test_images_are_opened_in_one_place() -> None:
    paths = [path for half in ("pretrain", "transfer") for path in (ROOT / half).rglob("*.py")]
    calls = [str(path.relative_to(ROOT)) for path in paths if re.search(r"\bImage\.open\(|imread\(", path.read_text())]
    assert calls == ["pretrain/runtime/pixels.py"]
