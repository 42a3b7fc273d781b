"""The fast decoder: Pillow's pixels, Pillow's errors."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pretrain.data import decode as module
from pretrain.data.decode import BadImageError, decode, decode_array, is_ordinary_jpeg


def picture(mode: str = "RGB", height: int = 61, width: int = 87) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


JPEGS = {
    "plain": encode(picture(), quality=90),
    "4:4:4": encode(picture(), quality=90, subsampling=0),
    "4:2:2": encode(picture(), quality=60, subsampling=1),
    "progressive": encode(picture(), quality=90, progressive=True),
    "grey": encode(picture("L"), quality=90),
    "rgb": encode(picture(), quality=90, keep_rgb=True),
}
exif = Image.Exif()
exif[0x0112] = 6  # orientation: a viewer turns it; torchvision and the reference do not
JPEGS["turned"] = encode(picture(), quality=90, exif=exif)


@pytest.mark.parametrize("name", JPEGS)
def test_ordinary_jpegs_have_pillows_pixels_without_pillow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want = np.asarray(decode(JPEGS[name], name))
    monkeypatch.setattr(module, "decode", None)
    found = decode_array(JPEGS[name], name)
    assert found.dtype == np.uint8 and found.shape == (61, 87, 3)
    assert np.array_equal(found, want)


OTHERS = {
    "cmyk": encode(picture("CMYK"), quality=90),
    "png": encode(picture(), "PNG"),
    "palette": encode(picture("P"), "PNG"),
    "transparent": encode(picture("RGBA"), "PNG"),
    "webp": encode(picture(), "WEBP"),
    "jpeg with more after its end": JPEGS["plain"] + b"\0\0",
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_to_pillow(name: str) -> None:
    assert not is_ordinary_jpeg(OTHERS[name])
    assert np.array_equal(decode_array(OTHERS[name], name), decode(OTHERS[name], name))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_jpeg_cut_short_is_an_error_as_it_is_in_pillow(share: float) -> None:
    data = JPEGS["plain"][: int(share * len(JPEGS["plain"]))]
    for read in (decode, decode_array):
        with pytest.raises(BadImageError, match="cannot read image 'x.jpg'"):
            read(data, "x.jpg")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xd9", b"no image", b"\xff\xd8\xff\xe0" + struct.pack(">H", 9999)])
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(BadImageError, match="cannot read image 'x.jpg'"):
        decode_array(data, "x.jpg")


def test_what_opencv_cannot_read_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise module.cv2.error("no")

    for imdecode in (fails, lambda *_: None):
        monkeypatch.setattr(module.cv2, "imdecode", imdecode)
        assert np.array_equal(decode_array(JPEGS["plain"], "x.jpg"), decode(JPEGS["plain"], "x.jpg"))


def test_damage_inside_that_pillow_reads_past_gives_the_same_pixels() -> None:
    rng, compared = np.random.default_rng(0), 0
    for _ in range(60):
        data = bytearray(JPEGS["plain"])
        for at in rng.integers(2, len(data) - 2, 3):
            data[at] = rng.integers(0, 256)
        try:
            want = np.asarray(decode(bytes(data), "x.jpg"))
        except BadImageError:
            continue  # OpenCV refuses most of these too, but not all
        assert np.array_equal(decode_array(bytes(data), "x.jpg"), want)
        compared += 1
    assert compared > 30
