"""JPEGs for benchmarks: made up with a photograph's size and spectrum, or read from a folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def made_up(seed: int, width: int = 500, height: int = 375, quality: int = 87) -> bytes:
    """A JPEG of about 110 kB: noise whose amplitude falls with frequency as a photograph's does, three colours."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    waves = np.exp(2j * np.pi * rng.random((4, *f.shape))) / np.maximum(f, 1)
    fields = np.fft.irfft2(waves, s=(height, width))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    image = np.moveaxis(fields[:1] + 0.5 * fields[1:], 0, -1)
    pixels = np.clip(image * 49 + rng.uniform(80, 150, 3), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def read(folder: str, count: int) -> list[bytes]:
    """The first `count` .jpg and .jpeg files under `folder`, by path; made up if it is "".

    Raises:
        SystemExit: there is none.
    """
    if not folder:
        return [made_up(seed) for seed in range(count)]
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[:count]
    if not paths:
        raise SystemExit(f"--images '{folder}' holds no .jpg or .jpeg file")
    return [p.read_bytes() for p in paths]
