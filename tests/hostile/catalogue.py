"""Special contents per kind of file: what attacks, what is almost right, and what readers are known to stumble over."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

NAMES = [
    "../../../../escaped",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "CON",
    "x" * 300,
    "a\0b",
    "a\nb",
    "\x1b[2J\u202egnp.jpg",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "=1+2",
    "$\\frac$",
    "\ud800",
    "-rf",
    "~/x",
    "$HOME",
    "%s{0}",
    "",
    " ",
    "猫" * 90,
]
NUMBERS = [0, -1, 1, 2**31, 2**63, 10**400, 1e308, 1e-320, -0.5, float("nan"), float("inf"), True]
VALUES = [*NAMES, *NUMBERS, None, [], {}, [[]], {"a": {}}, [None] * 1000, [0] * 5]


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any):
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


_COMMON = [b"", b"\0" * 100_000, b"\xff\xfe" * 50, bytes(range(256)) * 16]


def _text(canary: Path) -> list[bytes]:
    lines = [os.fsencode(n) if "\ud800" not in n else b"\xed\xa0\x80" for n in NAMES]
    return [
        *_COMMON,
        *(line + b"\n" for line in lines),
        b"\n".join(lines),
        b"x " * 100_000,
        "\ufeffa\r\nb\r".encode(),
        "a\u2028b 1".encode(),
        "zwölf".encode("latin-1"),
        "a b".encode("utf-16"),
        b"# only a comment\n",
    ]


def _json(canary: Path) -> list[bytes]:
    return [
        *_COMMON,
        b"null",
        b"[]",
        b"{}",
        b"3",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"a": 1, "a": 2}',
        b"[NaN, Infinity]",
        b"1" * 5000,
        b'{"id": ' + b"9" * 5000 + b"}",
        b'"\\ud800"',
        b'{"a": 1e999}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1',
        b"{} {}",
        b'[{"iteration": 1}]',
        b'{"iteration": 1e3}',
        b'{"iteration": 1}\n[]\n',
        b'{"iteration": "x"}\n',
        b"\x1b[2J",
        b'{"error": 3}',
        b'{"error": "\\u001b[2J\\u202e"}',
        b'{"key": null}',
        b"{'python': 1}",
    ]


def _yaml(canary: Path) -> list[bytes]:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    run = f"[{str(canary)!r}]"
    texts = [
        bomb,
        "a: &a [*a]",
        "[" * 3000,
        "a:\n" + "".join("  " * i + "b:\n" for i in range(1, 400)),
        "a: " + "9" * 5000,
        f"!!python/object/apply:os.mkdir {run}",
        f"x: !!python/object/apply:os.system ['mkdir {canary}']",
        f"x: !!python/object/new:os.mkdir {run}",
        "x: !!python/name:os.system",
        "x: !!binary abcd",
        "x: !!set {a}",
        "x: 2020-01-01",
        "a: 1\na: 2",
        "? [a, b]\n: c",
        "1: 2",
        "null: 1",
        "a: .nan",
        "a: .inf",
        "- a",
        "text",
        "--- a\n--- b",
        "%TAG ! x\n--- a",
        "_BASE_: /dev/zero",
        "_BASE_: ../../../../../../etc/passwd",
        "_BASE_: .",
        "_BASE_: [a]",
        "<<: 3",
        "<<: {a: 1}\nb: 2",
        "a: !!int abc",
        "a: 0x" + "f" * 4000,
        "a: 1:2:3:4",
        "\tx: 1",
        "a: 'unended",
        "a: \x01",
        "&a a: *a",
        "a: *b",
        "{a: {b: {c: [}}}",
        "name: [a]",
        "root: ~",
        "format: 3",
        "format: voc\nname: x",
        "title: x\nrows: 3",
        "DATASETS: 3",
        "SEED: [1]",
        "MODEL: {WEIGHTS: [1]}",
    ]
    return [*_COMMON, *(text.encode() for text in texts)]


def _xml(canary: Path) -> list[bytes]:
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    head, tail = "<annotation><size><width>40</width><height>30</height></size>", "</annotation>"
    box = "<bndbox><xmin>%s</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    texts = [
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{lol}]><annotation>&l9;</annotation>',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><object><name>&e;</name></object></annotation>',
        '<?xml version="1.0" encoding="base64"?><a/>',
        '<?xml version="1.0" encoding="utf-7"?><a/>',
        '<?xml encoding="zlib"?>x',
        "<a>" * 50_000,
        "<a>" * 5000 + "</a>" * 5000,
        "<annotation/>",
        head,
        head + tail,
        f"{head}<object/>{tail}",
        *(
            f"{head}<object><name>{n}</name>{box % v}</object>{tail}"
            for n, v in [
                ("cat", "nan"),
                ("cat", "1e999"),
                ("cat", "9" * 5000),
                ("\u202e", "1"),
                ("../x", "1"),
                ("x" * 3000, "-5"),
                ("a&#27;", "1"),
                ("", "1"),
            ]
        ),
        "<annotation><size><width>1e9</width><height>1e9</height></size></annotation>",
    ]
    return [*_COMMON, *(text.encode() for text in texts)]


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _image(canary: Path) -> list[bytes]:
    def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
        Image.new(mode, size).save(buffer := io.BytesIO(), kind, **options)
        return buffer.getvalue()

    jpeg = saved("JPEG")
    huge = bytearray(jpeg)
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xff\xff\xff\xff"
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n(%pipe%mkdir {canary}) (w) file\n%%EOF".encode()
    return [
        *_COMMON,
        program,
        saved("EPS"),
        saved("PDF"),
        saved("ICO"),
        saved("GIF", "P"),
        saved("TIFF"),
        saved("TIFF", "F"),
        saved("PNG", "I;16"),
        saved("PNG", "LA"),
        saved("PNG", "P"),
        saved("PNG", "1"),
        saved("JPEG", "CMYK"),
        saved("JPEG", "L"),
        saved("WEBP"),
        saved("PPM"),
        saved("BMP"),
        saved("JPEG", size=(1, 1)),
        saved("JPEG", size=(1, 4000)),
        bytes(huge),
        jpeg[:100],
        jpeg[:-2],
        jpeg[: len(jpeg) // 2],
        jpeg + jpeg,
        png(200_000, 200_000, b""),
        png(13_000, 13_000, b""),
        png(40, 30, b"\0" * 41 * 30),
        png(40, 30, b"short"),
        png(0, 0, b""),
        png(40, 30, b"\0" * 10_000_000),
        png(40, 30, b"\0" * 81 * 30, 16),
        b"P6\n99999999 99999999\n255\n",
        b"P5\n40 30\n65535\n" + bytes(2400),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 40, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        b"II*\0\x08\0\0\0\x01\0" + b"\xff" * 200,
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 50,
        b"GIF89a\xff\xff\xff\xff\xf7\0\0" + bytes(1000),
        b"8BPS\0\x01" + bytes(200),
    ]


def _pickles(canary: Path) -> list[bytes]:
    bad = [
        Call(os.mkdir, str(canary)),
        Call(os.system, f"mkdir {canary}"),
        Call(eval, f"__import__('os').mkdir({str(canary)!r})"),
        Call(exec, f"import os; os.mkdir({str(canary)!r})"),
        Call(bytearray, 1 << 50),
        Call(np.ndarray, (1 << 20, 1 << 20)),
        Call(torch.load, str(canary)),
        {"model": {"conv1.weight": Call(open, str(canary), "w")}},
    ]
    found = [pickle.dumps(value, protocol=protocol) for value in bad for protocol in (0, 2, 4)]
    for value in bad:
        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as z:
            z.writestr("x/data.pkl", pickle.dumps(value, protocol=2))
            z.writestr("x/version", "3")
        found.append(buffer.getvalue())
        torch.save({"state_dict": 1, "x": value}, buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
        found.append(buffer.getvalue())
    plain: list[Any] = [
        None,
        3,
        [],
        {},
        {"state_dict": None},
        {"state_dict": {"a": 1}},
        {"model": []},
        {"iteration": 1, "model": {}},
        {1: 2},
        {"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(1).expand(64, 3, 7, 7)}},
    ]
    for value in plain:
        torch.save(value, buffer := io.BytesIO())
        found.append(buffer.getvalue())
    return [
        *_COMMON,
        *found,
        b"<html>404</html>",
        b"version https://git-lfs\n",
        struct.pack("<Q", 1 << 60) + b"{}",
        b"PK\x03\x04" * 50,
    ]


def _tar(canary: Path) -> list[bytes]:
    def shard(*members: tuple[str, bytes, bytes, str]) -> bytes:
        with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as tar:
            for name, kind, data, link in members:
                info = tarfile.TarInfo(name)
                info.type, info.size, info.linkname = kind, len(data), link
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    image = _image(canary)[-20]
    file, lots = tarfile.REGTYPE, [(f"{i}.jpg", tarfile.REGTYPE, b"x", "") for i in range(20)]
    whole = shard(("a.jpg", file, image, ""), *lots)
    grown = bytearray(whole)
    grown[124:136] = b"77777777777\0"
    return [
        *_COMMON,
        shard(),
        whole,
        bytes(grown),
        whole[:700],
        whole[:1024],
        whole[:-600],
        whole + b"x" * 600,
        b"\x1f\x8b" + bytes(600),
        shard(("../../x.jpg", file, image, "")),
        shard(("/etc/x.jpg", file, image, "")),
        shard(("x.jpg", tarfile.SYMTYPE, b"", "/etc/passwd")),
        shard(("x.jpg", tarfile.LNKTYPE, b"", "y.jpg")),
        shard(("x.jpg", tarfile.FIFOTYPE, b"", "")),
        shard(("x.jpg", tarfile.CHRTYPE, b"", "")),
        shard(("a.jpg", file, image, ""), ("a.jpg", file, image, "")),
        shard(("\x1b[2J\u202e.jpg", file, b"no", "")),
        shard(("a" * 3000 + ".jpg", file, b"", "")),
    ]


def _arrays(canary: Path) -> list[bytes]:
    def saved(value: Any) -> bytes:
        np.save(buffer := io.BytesIO(), value, allow_pickle=True)
        return buffer.getvalue()

    huge = saved(np.zeros(3, "<f4")).replace(b"(3,), }      ", b"(9999999999,), }"[:13].ljust(13))
    return [
        *_COMMON,
        saved(np.zeros((2, 3), "<f4")),
        saved(np.array([Call(os.mkdir, str(canary))], object)),
        saved(np.float64(3)),
        huge,
        b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x09\0",
        *_pickles(canary)[4:12],
    ]


BYTES: dict[str, Callable[[Path], list[bytes]]] = {
    "image": _image,
    "json": _json,
    "yaml": _yaml,
    "xml": _xml,
    "list": _text,
    "checkpoint": _pickles,
    "shard": _tar,
    "arrays": _arrays,
}
