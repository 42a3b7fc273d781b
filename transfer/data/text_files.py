"""Decodes the text of annotation files, which do not state their encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from transfer.data.spec import DatasetError

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decoded(path: Path, content: bytes) -> str:
    """Decodes a file's text from UTF-8, or from UTF-16 with a byte order mark.

    Raises:
        DatasetError: the file has another encoding.
    """
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"'{path}' is not in UTF-8 (byte {error.start}); save it in that encoding, e.g. with `iconv -t utf-8`"
        ) from None
    if "\0" in text:
        raise DatasetError(f"'{path}' holds NUL characters; save it as text in UTF-8")
    return text
