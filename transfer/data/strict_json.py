"""Reads JSON strictly: in UTF-8, and without repeated keys in an object, of which json silently keeps the last."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pretrain.runtime.errors import ExpectedError
from pretrain.runtime.files import read_regular
from pretrain.runtime.wording import short


class _Twice(ValueError):
    """Says that a key comes twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise _Twice(f"key {short(twice)} stands twice in one of its objects")
    return found


def read(path: Path, raising: type[ExpectedError]) -> Any:
    """Reads a json.

    Args:
        raising: the class of the error; the caller reports a missing file.

    Raises:
        raising: the file has another encoding, is not json, is nested too deeply, or has a key twice.
    """
    try:
        return json.loads(read_regular(path), object_pairs_hook=_once)
    except _Twice as error:
        raise raising(f"'{path}': {error}; keep one of them") from None
    except UnicodeDecodeError as error:
        raise raising(f"'{path}' is not in UTF-8 (byte {error.start}); save it in that encoding") from None
    except RecursionError:
        raise raising(f"'{path}' is nested too deeply; export it again") from None
    except ValueError as error:
        raise raising(f"'{path}' is no json ({error}); copy or export it again") from None
