"""Writes what a trained network finds on a user's images: pictures, a COCO json, a CSV, index maps."""

from __future__ import annotations

import csv
import glob
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.runtime.checkpoint import as_json, atomic_write, write_together
from pretrain.runtime.config import ConfigError
from pretrain.runtime.folders import is_hidden, read_tree
from pretrain.runtime.result import FILE_NAME, RunResult
from pretrain.runtime.slug import part
from pretrain.runtime.wording import visible
from transfer.config.load import load_config
from transfer.data.image_files import image_size
from transfer.data.segmentation import area
from transfer.data.spec import Record
from transfer.data.threads import in_threads
from transfer.engines import resolve, results
from transfer.evaluation.miou import Map
from transfer.evaluation.predictions import ImageDetections, to_coco_results
from transfer.report.pictures import Objects, draw
from transfer.report.table_files import plain
from transfer.report.visualize import pixels, surest
from transfer.tasks import task_of
from transfer.tasks.task import too_thin

logger = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
JSON, CSV, SKIPPED, PICTURES, MAPS = "predictions.json", "predictions.csv", "skipped.txt", "pictures", "maps"
_FIELDS = ("file", "class", "score", "x0", "y0", "x1", "y1")


def image_files(given: Iterable[str]) -> list[Path]:
    """Returns the image files that names of files, folders (all images below) and patterns stand for.

    Folders are read as those of data sets are (see `read_tree`), and patterns match nothing hidden unless they name it.
    A file that has several names, through links for instance, is taken once, under its first name.

    Raises:
        ConfigError: a name stands for no image.
        OSError: a folder cannot be read.
    """
    found: dict[str, Path] = {}
    for name in given:
        path, notes = Path(name), tuple[str, ...]()
        if path.is_dir():
            tree = read_tree(path, SUFFIXES)
            here, notes = [path / below for below in tree.files], tree.notes(path)
        elif path.exists():
            here = [path]
        else:
            matches = (m for m in glob.glob(name, recursive=True) if is_hidden(name) or not is_hidden(m))
            here = sorted(p for p in map(Path, matches) if p.suffix.lower() in SUFFIXES and not p.is_dir())
        if not here:
            raise ConfigError(
                f"'{name}' leads to no image; give image files, folders of them, or a pattern in quotes"
                + "".join(f"; {note}" for note in notes)
            )
        for note in notes:
            logger.warning(note)
        for file in here:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def records(files: Sequence[Path], cfg: CfgNode) -> tuple[list[Record], dict[Path, str]]:
    """Decodes every image once, so that none can end a prediction that has begun.

    Returns:
        A record for each image that the network can take, numbered from 1, and for each other file the reason.
    """
    good, bad = list[Record](), dict[Path, str]()
    for path, size in zip(files, in_threads(lambda f: image_size(f, decode=True), files, "images"), strict=True):
        if not isinstance(size, tuple):
            bad[path] = size or "more than 8 bits per pixel; convert it to 8 bits"
        elif fault := too_thin(size[1], size[0], cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST):
            bad[path] = fault
        else:
            good.append({"file_name": str(path), "image_id": len(good) + 1, "width": size[0], "height": size[1],
                         "annotations": []})  # fmt: skip
    return good, bad


def check_apart(files: Iterable[Path], folder: Path) -> None:
    """Raises ConfigError for an image that lies where pictures or maps are written and earlier ones removed."""
    written = [(folder / name).resolve() for name in (PICTURES, MAPS)]
    for path in files:
        if path.resolve().parent in written:
            raise ConfigError(
                f"image '{path}' lies where --output-dir '{folder}' has its pictures; give another --output-dir, or "
                "images without those"
            )


def trained(
    weights: Path, config_file: str | os.PathLike[str] | None, opts: Sequence[str], defaults: CfgNode, use: str
) -> tuple[CfgNode, list[str]]:
    """Returns the config of a trained network, whose MODEL.WEIGHTS is `weights`, and the names of its classes.

    Args:
        config_file: by default the `config.yaml` beside the weights.
        opts: alternating keys and values that change the config.
        defaults: an engine's defaults tree.
        use: what the network is for, in errors.

    Raises:
        ConfigError: there is no config, it cannot be read, or the weights are not those of a whole network.
        CheckpointError: the weights cannot be read.
    """
    if not weights.is_file():
        folder = weights if weights.is_dir() else weights.parent
        there = sorted(path.name for path in folder.glob("model_*.pth"))
        hint = f"'{folder}' has {', '.join(there)}" if there else "give the model_final.pth of a run"
        raise ConfigError(f"weights '{weights}' are no file; {hint}")
    config = Path(config_file or weights.parent / "config.yaml")
    if not config.is_file():
        raise ConfigError(
            f"'{config}' does not exist; give --weights in a run's folder, or the config by --config-file"
        )
    cfg = load_config(config, [*opts, "MODEL.WEIGHTS", str(weights)], defaults)
    resolve.detector_file(cfg, use)
    task = task_of(cfg)
    return cfg, names_of_run(weights.parent, cfg, task.classes(cfg)[1] if task is not None else 0)


def names_of_run(folder: Path, cfg: CfgNode, count: int) -> list[str]:
    """Returns a run's class names from its result, else from its data sets, else numbers."""
    names: Any = RunResult.load(folder).extra.get("classes") if (folder / FILE_NAME).is_file() else None
    if not isinstance(names, list) or len(names) != count:
        names = results.class_names(cfg)
    if len(names) == count:
        return [str(name) for name in names]
    logger.warning("'%s' does not say what its %d classes are called: they are numbered", folder, count)
    return [f"class {i}" for i in range(count)]


class Output:
    """Takes and draws one prediction after the other, and writes the files at the end, even of an interrupted run."""

    def __init__(self, folder: Path, names: Sequence[str], threshold: float, draws: bool):
        """Makes the folder; an earlier prediction's files in it stay until there are new ones.

        Args:
            names: names of the classes.
            threshold: detections with a lower score are left out of all files.
            draws: whether pictures are made, which takes longest.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder, self.names, self.threshold, self.draws = folder, names, threshold, draws
        self._done: list[tuple[Record, ImageDetections | None]] = []
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass

    def add(self, record: Record, found: ImageDetections | Map) -> None:
        if not self._done:
            self._remove_pictures()
        if isinstance(found, Map):
            self._save(Image.fromarray(found.classes.astype(np.uint8)), MAPS, record)
            self._done.append((record, None))
            objects = Objects.of_map(found.classes)
        else:
            self._done.append((record, _kept(found, np.flatnonzero(found.scores >= self.threshold))))
            objects = surest(found, self.threshold)
        if self.draws:
            picture = draw(pixels(record), objects, self.names, max(record["width"], record["height"], 320))
            self._save(picture, PICTURES, record)

    def _remove_pictures(self) -> None:
        for name in (PICTURES, MAPS):
            for old in (self.folder / name).glob("*.png"):
                if re.match(r"\d{6}_", old.name):
                    old.unlink()

    def _save(self, picture: Image.Image, folder: str, record: Record) -> None:
        stem = part(Path(record["file_name"]).stem)
        with atomic_write(self.folder / folder / f"{record['image_id']:06d}_{stem}.png") as f:
            picture.save(f, "PNG")

    def finish(self, skipped: Mapping[Path, str]) -> list[Path]:
        """Writes what was found and what was skipped; returns the files and folders that hold it.

        If nothing was found, an earlier prediction's files stay.
        """
        if not self._done:
            return []
        files = dict[str, bytes]()
        if found := [(record, detections) for record, detections in self._done if detections is not None]:
            files = {JSON: as_json(self._coco(found)), CSV: self._csv(found).encode("utf-8")}
        if skipped:
            lines = (visible(f"{path}: {why}").replace("\n", "\\n") for path, why in skipped.items())
            files[SKIPPED] = "".join(f"{line}\n" for line in lines).encode("utf-8")
        write_together({self.folder / name: content for name, content in files.items()})
        for name in {JSON, CSV, SKIPPED} - files.keys():
            (self.folder / name).unlink(missing_ok=True)
        return [path for name in (PICTURES, MAPS, JSON, CSV, SKIPPED) if (path := self.folder / name).exists()]

    def _coco(self, found: Sequence[tuple[Record, ImageDetections]]) -> dict[str, Any]:
        """Returns a COCO data set whose annotations have scores; categories are numbered from 1.

        The area is that of the mask, or else of the box.
        """
        annotations = to_coco_results([detections for _, detections in found], range(1, len(self.names) + 1))
        for number, result in enumerate(annotations, 1):
            _, _, width, height = result["bbox"]
            mask = result.get("segmentation")
            size = width * height if mask is None else area(mask, *mask["size"])
            result |= {"id": number, "area": size, "iscrowd": 0}
        images = [
            {"id": r["image_id"], "file_name": r["file_name"], "width": r["width"], "height": r["height"]}
            for r, _ in found
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(self.names, 1)]
        return {"images": images, "categories": categories, "annotations": annotations}

    def _csv(self, found: Sequence[tuple[Record, ImageDetections]]) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_FIELDS)
        for record, detections in found:
            file = plain(record["file_name"])
            for box, score, category in zip(detections.boxes, detections.scores, detections.classes, strict=True):
                numbers = [f"{score:.4f}", *(f"{x:.2f}" for x in box)]
                writer.writerow([file, plain(self.names[category]), *numbers])
        return out.getvalue()


def _kept(found: ImageDetections, keep: np.ndarray) -> ImageDetections:
    """Returns the detections at these places, the surest first."""
    keep = keep[np.argsort(-found.scores[keep], kind="stable")]
    return replace(
        found,
        boxes=found.boxes[keep].astype(np.float64),
        scores=found.scores[keep],
        classes=found.classes[keep],
        masks=None if found.masks is None else [found.masks[int(i)] for i in keep],
        keypoints=None if found.keypoints is None else found.keypoints[keep],
    )
