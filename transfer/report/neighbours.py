"""Finds the images that a trunk considers alike: nearest neighbours by cosine in its pooled features.

The trunk is frozen and has no head. Neighbours are computed at most once per weights and images, which takes some
seconds on a CPU for a ResNet-50, and are kept as `<output>/neighbours/<name>.json`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from pretrain.runtime import checkpoint
from pretrain.runtime.files import read_record
from pretrain.runtime.folders import read_tree
from pretrain.runtime.log import progress
from pretrain.runtime.pixels import opened
from pretrain.runtime.provenance import file_sha256
from pretrain.runtime.slug import folder as folder_name
from transfer.convert.architecture import Architecture
from transfer.convert.convert import take
from transfer.convert.facts import KEYS
from transfer.convert.forward import torchvision_trunk
from transfer.data import catalog
from transfer.trials.inputs import expanded, pretraining_data
from transfer.trials.output_folders import TRUNK
from transfer.trials.plan import Plan

logger = logging.getLogger(__name__)

VERSION = 1  # of the files
IMAGES = 500  # among which neighbours are looked for
FOLDERS = 25  # of a set in folders: with more, two images of one would be rare
SIDE = 96  # pixels of the square that the trunk sees
QUERIES = 6
NEAREST = 5
BATCH = 50
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
_UNSTATED = ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's; for files that do not say


@dataclass(frozen=True)
class Pool:
    """Holds the images among which neighbours are searched.

    Attributes:
        paths, labels: path and label of every image; the label is its folder, or empty if the set has no folders.
        queries: positions of the images whose neighbours are shown, evenly spaced over folders or images.
        words: what the images are, for people.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    queries: tuple[int, ...]
    words: str

    def digest(self) -> str:
        """Returns a digest of names and sizes in order, which does not depend on where the set lies."""
        lines = (f"{path.parent.name}/{path.name} {path.stat().st_size}\n" for path in self.paths)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Neighbours:
    """Holds what one trunk finds.

    Attributes:
        nearest: per query its neighbours as (position in the pool, cosine), nearest first.
        same: percentage of all images' nearest neighbours that are in the image's own folder; None without folders.
    """

    nearest: tuple[tuple[tuple[int, float], ...], ...]
    same: float | None


@dataclass(frozen=True)
class Trunk:
    """Holds the neighbours by a pre-trained trunk of the experiment and by the same network as initialised.

    Attributes:
        name: name of the pre-training, or the slug of the row that starts from a file.
    """

    name: str
    trained: Neighbours
    random: Neighbours


def pool(plan: Plan) -> Pool | None:
    """Returns a pre-training's images if they lie in a folder, else the first row's test images, else None.

    Raises:
        ValueError, OSError: a data set cannot be read.
    """
    for name, job in plan.experiment.pretrain.items():
        given = pretraining_data(job.config, job.opts)
        if given is not None and expanded(given).is_dir() and (files := _in_folders(expanded(given))):
            return _pool(files, f"images of the pre-training '{name}'")
    fine_tuned = [run for column, row in plan.experiment.runs() if (run := row.job(column)) is not None]
    if not fine_tuned:
        return None
    cfg = plan.config(fine_tuned[0].config, fine_tuned[0].opts)
    spec = catalog.resolve(cfg.DATASETS.TEST, cfg.DATASETS.SPECS)[0]
    files = [(Path(record["file_name"]), "") for record in _evenly(catalog.load(spec), IMAGES)]
    return _pool(files, f"images of {spec.name}") if files else None


def _in_folders(root: Path) -> list[tuple[Path, str]]:
    """Returns (file, folder) of evenly spaced images in evenly spaced folders; in a flat folder, folder is empty."""
    names = read_tree(root, SUFFIXES).files
    inside: dict[str, list[str]] = {}  # folder -> the images in it, at any depth
    for name in names:
        if os.sep in name:
            inside.setdefault(name.partition(os.sep)[0], []).append(name)
    folders = _evenly(sorted(inside), FOLDERS)
    if len(folders) < 2:
        return [(root / name, "") for name in _evenly(names, IMAGES)]
    each = IMAGES // len(folders)
    return [(root / name, folder) for folder in folders for name in _evenly(inside[folder], each)]


def _pool(files: Sequence[tuple[Path, str]], words: str) -> Pool:
    paths, labels = zip(*files, strict=True)
    firsts = [i for i, label in enumerate(labels) if label and (not i or labels[i - 1] != label)]
    queries = _evenly(firsts or range(len(paths)), QUERIES)
    return Pool(paths, labels, tuple(queries), f"{len(paths)} {words}")


def _evenly(values: Sequence[Any], count: int) -> list[Any]:
    where = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[i] for i in where]


def view(path: Path) -> Image.Image:
    """Returns the square of an image that the trunks see, RGB of SIDE x SIDE pixels."""
    with opened(path) as file:
        file.draft("RGB", (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded at a fraction of its size
        return ImageOps.fit(ImageOps.exif_transpose(file).convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)


def trunks(plan: Plan, images: Pool | None) -> tuple[list[Trunk], dict[str, str]]:
    """Returns the pre-trained trunks that rows start from, and name -> why the others have no neighbours."""
    found: list[Trunk] = []
    problems: dict[str, str] = {}
    twins: dict[str, Neighbours] = {}
    for name, path in dict(_weights(plan)).items():
        if path is None:
            problems[name] = "its weights are not here"
        elif images is None:
            problems[name] = "there are no images here"
        else:
            try:
                found.append(_trunk(plan.experiment.output / "neighbours", name, path, images, twins))
            except (checkpoint.CheckpointError, ValueError, OSError) as error:
                logger.warning("no nearest neighbours of '%s' in the report: %s", name, error)
                problems[name] = str(error)
    return found, problems


def _weights(plan: Plan) -> Iterable[tuple[str, Path | None]]:
    """Yields (name, file) of the trunks: the converted file, else the file to convert; None if neither is here."""
    for column, row in plan.experiment.runs():
        source = row.file if row.pretrain is None else plan.source(column, row, column.seeds[0])
        if source is not None:
            name = row.pretrain or row.slug
            places = (plan.converted(plan.trunk_name(row)) / TRUNK, source)
            yield name, next((path for path in places if path.is_file()), None)


def _trunk(folder: Path, name: str, path: Path, images: Pool, twins: dict[str, Neighbours]) -> Trunk:
    """Makes one trunk; `twins` holds what earlier trunks' random networks found, by architecture and normalisation."""
    key = {"version": VERSION, "weights": file_sha256(path), "images": images.digest(), "side": SIDE}
    place = folder_name(name)
    files = folder / f"{place}.json", folder / f"{place}-random.json"
    trained, random = (_load(file, key) for file in files)
    if trained is None or random is None:
        taken = take(path)
        stride_in_1x1 = bool(taken.facts["stride_in_1x1"])
        twin = repr((taken.architecture, [taken.facts[k] for k in KEYS]))
        if trained is None:
            net = torchvision_trunk(taken.tensors, taken.architecture, stride_in_1x1)
            trained = _compute(net, images, taken.facts, f"features of '{name}'")
            checkpoint.save_json({"key": key, **asdict(trained)}, files[0])
        random = random or twins.get(twin)
        if random is None:
            net = initialised(taken.architecture, stride_in_1x1)
            random = _compute(net, images, taken.facts, f"features of '{name}' at random")
        twins[twin] = random
        checkpoint.save_json({"key": key, **asdict(random)}, files[1])
    return Trunk(name, trained, random)


def _compute(net: nn.Module, images: Pool, facts: Mapping[str, Any], words: str) -> Neighbours:
    features = pooled(net, images.paths, facts, words)
    return Neighbours(nearest(features, images.queries), same_folder(features, images.labels))


def _load(path: Path, key: dict[str, Any]) -> Neighbours | None:
    try:
        kept = json.loads(read_record(path))
        if kept["key"] != key:
            return None
        nearest = tuple(tuple((int(i), float(c)) for i, c in row) for row in kept["nearest"])
        return Neighbours(nearest, None if kept["same"] is None else float(kept["same"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none yet, or none any more: computed anew
        return None


def initialised(architecture: Architecture, stride_in_1x1: bool = False) -> nn.Module:
    """Builds the network with the weights of seed 0; the caller's random state is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return architecture.build(stride_in_1x1=stride_in_1x1)


def pooled(net: nn.Module, paths: Sequence[Path], facts: Mapping[str, Any], words: str) -> np.ndarray:
    """Computes globally averaged res5 features of a torchvision ResNet, (N, C) float32.

    Args:
        facts: the file's channel order, mean and std (0 to 255); None where the file does not say.
    """
    order, mean, std = (facts[key] for key in ("channel_order", "pixel_mean", "pixel_std"))
    if order is None:
        order, mean, std = _UNSTATED
    net.fc = nn.Identity()
    net.eval()
    rows = []
    with torch.inference_mode(), progress(len(paths), words, "images") as bar:
        for first in range(0, len(paths), BATCH):
            pixels = np.stack([np.asarray(view(path), np.float32) for path in paths[first : first + BATCH]])
            pixels = pixels[..., ::-1] if order == "BGR" else pixels
            x = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
            rows.append(net(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy())
            bar.update(len(pixels))
    return np.concatenate(rows)


def nearest(
    features: np.ndarray, queries: Sequence[int], count: int = NEAREST
) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Returns per query the `count` nearest other rows of (N, C) features by cosine, (row, cosine), nearest first."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    cosine = unit[list(queries)] @ unit.T
    cosine[np.arange(len(queries)), list(queries)] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(features) - 1)]
    return tuple(
        tuple((int(i), round(float(row[i]), 4)) for i in mine) for row, mine in zip(cosine, order, strict=True)
    )


def same_folder(features: np.ndarray, labels: Sequence[str], count: int = NEAREST) -> float | None:
    """Returns which percentage of each image's `count` nearest neighbours have its label; None for a single label."""
    if len(set(labels)) < 2:
        return None
    found = nearest(features, range(len(labels)), count)
    return float(np.mean([labels[j] == labels[i] for i, mine in enumerate(found) for j, _ in mine]) * 100)


def chance(labels: Sequence[str]) -> float:
    """Returns the percentage that `same_folder` gives on average for features without information."""
    return 100 * fmean(labels.count(label) - 1 for label in labels) / (len(labels) - 1)
