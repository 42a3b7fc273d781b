"""Finds and digests the image folders and data sets that a stage reads beside files of other stages."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pretrain.runtime.config import ConfigError, load_yaml_with_base
from pretrain.runtime.folders import read_tree
from pretrain.runtime.wording import short
from transfer.convert.sharded import sha256
from transfer.data import catalog
from transfer.data.formats import format_of
from transfer.trials.rows import Probe


def is_present(spec: catalog.DatasetSpec) -> bool:
    """Returns whether a data set seems to be here, without reading it."""
    return format_of(spec).is_present(spec)


def expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


def pretraining_data(config: Path, opts: Sequence[str]) -> str | None:
    """Returns DATA.TRAIN of a pre-training config, read as YAML, since transfer does not know that half's defaults."""
    given = dict(zip(opts[::2], opts[1::2], strict=True))
    return given.get("DATA.TRAIN") or _data(config).get("TRAIN")


def _data(config: Path) -> Mapping[str, str]:
    """Returns the folders in the DATA group of a config.

    Raises:
        ConfigError: DATA is not a group, or a folder's name is not text.
    """
    data = load_yaml_with_base(config).get("DATA", {})
    if not isinstance(data, Mapping):
        raise ConfigError(f"{config}: DATA is {short(data)}, but it is a group of keys; set those, e.g. DATA.TRAIN")
    folders = {name: data[name] for name in ("TRAIN", "VAL") if name in data}
    for name, folder in folders.items():
        if not isinstance(folder, str):
            raise ConfigError(f"{config}: DATA.{name} is {short(folder)}; give a folder")
    return folders


def probed_data(probe: Probe) -> dict[str, str | None]:
    """Returns option or key -> folder of labelled images that the probe reads."""
    given = dict(zip(probe.opts[::2], probe.opts[1::2], strict=True))
    if probe.config is None:
        return {name: given.get(name) for name in ("--train", "--val")}
    data = _data(probe.config)
    return {f"DATA.{name}": given.get(f"DATA.{name}", data.get(name)) for name in ("TRAIN", "VAL")}


def images(path: str | None) -> str | None:
    """Returns a digest of the names in a folder that its readers see, or of a list's content; for shards the words."""
    if path is None:
        return None
    place = expanded(path).resolve()
    if place.is_file() and place.suffix.lower() in (".txt", ".json"):
        return _content(place, place.stat().st_mtime_ns)
    return _listing(place, place.stat().st_mtime_ns) if place.is_dir() else path


@functools.lru_cache(maxsize=64)
def _content(file: Path, changed: int) -> str:
    return sha256(file)[:16]


@functools.lru_cache(maxsize=64)
def _listing(folder: Path, changed: int) -> str:
    """Reads the directories once and opens no file, which takes a second or two for ImageNet on a local disk."""
    tree = read_tree(folder)
    return hashlib.sha256(os.fsencode("\0".join((*tree.folders, "", *tree.files)))).hexdigest()[:16]
