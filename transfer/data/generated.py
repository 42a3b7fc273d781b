"""Draws the generated set "shapes and textures" from a seed, as data for pre-training and for transfer.

A class is a shape and a texture: four shapes and four textures in a ring, each shape with two textures and each texture
on two shapes, so that neither alone tells the class; colours are random. The *iconic* part shows one object per image
in class folders, as ImageNet does; the *scene* part shows several, with occlusion, in the VOC and the COCO layout over
the same images. Equal parameters give equal bytes (on equal library versions), and image i does not depend on how many
images there are.

    root/iconic/{train,val}/<class>/<index>.jpg
    root/scenes/{JPEGImages,Annotations,ImageSets/Main}       root/voc.yaml: generated_trainval, generated_test
    root/coco/instances_{train,val}.json                      root/coco.yaml: generated_coco_train, generated_coco_val
    root/coco/keypoints_{train,val}.json                      root/keypoints.yaml: generated_keypoints_train, ..._val
    root/scenes/SemanticMaps                root/semantic.yaml: generated_sem_seg_train, generated_sem_seg_val
    root/lvis/lvis_{train,val}.json                           root/lvis.yaml: generated_lvis_train, generated_lvis_val
    root/cityscapes/{leftImg8bit,gtFine}    root/cityscapes.yaml: generated_cityscapes_train, generated_cityscapes_val
    root/manifest.json                                        written last
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime.checkpoint import save_json
from pretrain.runtime.files import read_record
from pretrain.runtime.log import progress
from pretrain.runtime.opencv import cv2
from pretrain.runtime.seed import derive
from transfer.data import generated_iconic, generated_keypoints, generated_scenes
from transfer.data.drawing import PALETTES
from transfer.data.generated_keypoints import keypoints_json
from transfer.data.generated_layouts import (
    CITYSCAPES_SPEC,
    COCO_SPEC,
    LVIS_SPEC,
    SEMANTIC_SPEC,
    VOC_SPEC,
    instance_ids,
    lvis_json,
)
from transfer.data.generated_scenes import CLASSES, Scene
from transfer.data.spec import DatasetError

log = logging.getLogger(__name__)

VERSION = 1  # of the drawing: a change that alters pixels raises it
MANIFEST = "manifest.json"
SPEC_FILES = ("voc.yaml", "coco.yaml", "keypoints.yaml", "semantic.yaml", "lvis.yaml", "cityscapes.yaml")
CLASS_NAMES = tuple(CLASSES)
_ICONIC_TRAIN, _ICONIC_VAL, _SCENES_TRAINVAL, _SCENES_TEST = range(4)  # branches of the seed
_FIRST_TEST_ID = 500_001


@dataclass(frozen=True)
class Parameters:
    """Holds what defines the set. Counts are images; sizes are (width, height) in pixels, for scenes on average.

    With the palette "any" every object has its own colours, which solve instance discrimination without a look at
    shapes; with "muted" all pictures share six pale hues, as photographs share the colours of the world.
    """

    seed: int = 0
    iconic_train: int = 4000
    iconic_val: int = 800
    scenes_trainval: int = 800
    scenes_test: int = 400
    iconic_size: tuple[int, int] = (72, 72)
    scene_size: tuple[int, int] = (160, 128)
    quality: int = 92
    palette: str = "any"

    def __post_init__(self) -> None:
        if self.palette not in PALETTES:
            raise DatasetError(f"palette is {self.palette!r}; give {' or '.join(PALETTES)}")
        for name in ("seed", "iconic_train", "iconic_val", "scenes_trainval", "scenes_test"):
            if getattr(self, name) < 0:
                raise DatasetError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("iconic_size", "scene_size"):
            if min(getattr(self, name)) < 32:
                raise DatasetError(f"{name} is {getattr(self, name)}; objects need at least 32 pixels a side")
        if not 1 <= self.quality <= 100:
            raise DatasetError(f"quality is {self.quality}; JPEG quality runs from 1 to 100")


@dataclass(frozen=True)
class Manifest:
    """Holds what was written: the parameters, the number of annotated objects per class, and a digest of all files."""

    parameters: Parameters
    objects: dict[str, int]
    files: int
    digest: str
    version: int = VERSION

    @staticmethod
    def read(root: str | os.PathLike[str]) -> Manifest | None:
        """Reads the manifest in `root`; None if there is none, since nothing was finished there."""
        path = Path(root) / MANIFEST
        if not path.is_file():
            return None
        try:
            data = json.loads(read_record(path))
            pairs: dict[str, Any] = data.pop("parameters")
            pairs |= {key: tuple(pairs[key]) for key in ("iconic_size", "scene_size")}
            return Manifest(parameters=Parameters(**pairs), **data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DatasetError(f"'{path}' is no manifest of the generated set ({error}); delete the folder") from None


def write(
    root: str | os.PathLike[str],
    seed: int = 0,
    iconic_train: int = 4000,
    iconic_val: int = 800,
    scenes_trainval: int = 800,
    scenes_test: int = 400,
    *,
    iconic_size: tuple[int, int] = (72, 72),
    scene_size: tuple[int, int] = (160, 128),
    quality: int = 92,
    palette: str = "any",
    force: bool = False,
) -> Manifest:
    """Writes the set to `root`, or returns at once if it is already there with the same parameters.

    A set from an earlier version, with fewer kinds of annotations, is drawn again: the same files, and more.

    The set appears whole or not at all: it is drawn in a folder beside `root` that is renamed at the end. After a kill,
    simply repeat the call. Calls from several processes are safe; the later ones wait.

    Args:
        root: the folder to make.
        seed: defines every pixel together with the sizes.
        iconic_train, iconic_val, scenes_trainval, scenes_test: number of images; classes are balanced in the iconic
            parts.
        iconic_size, scene_size: (width, height) in pixels; scenes vary in aspect around theirs, at equal area.
        quality: JPEG quality.
        palette: "any" or "muted" colours; see `Parameters`.
        force: replace a generated set that has other parameters instead of refusing.

    Raises:
        DatasetError: `root` holds a set with other parameters (unless `force`), or anything else.
    """
    parameters = Parameters(
        seed, iconic_train, iconic_val, scenes_trainval, scenes_test, iconic_size, scene_size, quality, palette
    )
    root = Path(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with _lock(root.parent / f".{root.name}.lock"):
        present = Manifest.read(root)
        same = present is not None and (present.parameters, present.version) == (parameters, VERSION)
        if present is not None and same and all((root / name).is_file() for name in SPEC_FILES):
            return present
        if present is not None and not same and not force:
            old = dataclasses.asdict(present.parameters) | {"version": present.version}
            new = dataclasses.asdict(parameters) | {"version": VERSION}
            changed = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key])
            raise DatasetError(f"'{root}' holds a generated set with other parameters ({changed}); --force rewrites it")
        if present is None and root.exists() and any(root.iterdir()):
            raise DatasetError(f"'{root}' exists and holds no generated set; choose another folder")
        staging = root.parent / f".{root.name}.partial"
        if staging.exists():
            log.info("removing what an interrupted run left in '%s'", staging)
            shutil.rmtree(staging)
        manifest = _draw_all(staging, parameters)
        if root.exists():
            shutil.rmtree(root)
        os.replace(staging, root)
    log.info("wrote %d files to '%s'", manifest.files, root)
    return manifest


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock of `path`; the empty file stays."""
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _draw_all(root: Path, parameters: Parameters) -> Manifest:
    p = parameters
    writer, colours = _Writer(root, p.quality), PALETTES[p.palette]
    parts = (p.iconic_train, p.iconic_val, p.scenes_trainval, p.scenes_test)
    scenes: dict[str, list[Scene]] = {"trainval": [], "test": []}
    with progress(sum(parts), "drawing", "images", disable=sum(parts) < 1000) as bar:
        for part, folder, count in ((_ICONIC_TRAIN, "train", p.iconic_train), (_ICONIC_VAL, "val", p.iconic_val)):
            for index in range(count):
                name, image = generated_iconic.draw(p.seed, part, index, p.iconic_size, colours)
                writer.image(f"iconic/{folder}/{name}/{index:06d}.jpg", image)
                bar.update()
        for part, split, first in ((_SCENES_TRAINVAL, "trainval", 1), (_SCENES_TEST, "test", _FIRST_TEST_ID)):
            for index in range(parts[part]):
                rng = np.random.default_rng(derive(p.seed, part, index))
                image, scene = generated_scenes.draw(rng, first + index, p.scene_size, colours)
                writer.image(f"scenes/JPEGImages/{scene.name}.jpg", image)
                writer.text(f"scenes/Annotations/{scene.name}.xml", scene.voc_xml())
                writer.map(f"scenes/SemanticMaps/{scene.name}.png", scene.semantic_map())
                if index < max(parts[part] // 4, min(parts[part], 12)):
                    place = f"{'train' if split == 'trainval' else 'val'}/generated/{scene.name}"
                    writer.map(f"cityscapes/leftImg8bit/{place}_leftImg8bit.png", image)
                    writer.map(f"cityscapes/gtFine/{place}_gtFine_instanceIds.png", instance_ids(scene))
                scenes[split].append(scene)
                bar.update()
    for split, coco_split in (("trainval", "train"), ("test", "val")):
        writer.text(f"scenes/ImageSets/Main/{split}.txt", "".join(f"{s.name}\n" for s in scenes[split]))
        instances = generated_scenes.coco_json(scenes[split])
        writer.text(f"coco/instances_{coco_split}.json", json.dumps(instances))
        points = [thing.points for scene in scenes[split] for thing in scene.things]
        writer.text(f"lvis/lvis_{coco_split}.json", json.dumps(lvis_json(instances)))
        writer.text(f"coco/keypoints_{coco_split}.json", json.dumps(keypoints_json(points, instances)))
    writer.text("voc.yaml", VOC_SPEC.format(classes=", ".join(CLASS_NAMES)))
    writer.text("coco.yaml", COCO_SPEC)
    writer.text("keypoints.yaml", generated_keypoints.SPEC)
    writer.text("lvis.yaml", LVIS_SPEC)
    writer.text("cityscapes.yaml", CITYSCAPES_SPEC)
    writer.text("semantic.yaml", SEMANTIC_SPEC.format(classes=", ".join(CLASS_NAMES)))
    objects = {name: 0 for name in CLASS_NAMES}
    for scene in (s for split in scenes.values() for s in split):
        for thing in scene.things:
            objects[thing.name] += 1
    manifest = Manifest(p, objects, writer.files, writer.digest.hexdigest()[:16])
    save_json(dataclasses.asdict(manifest), root / MANIFEST)
    return manifest


class _Writer:
    """Writes files under `root`, making folders as needed, and digests names and bytes in order."""

    def __init__(self, root: Path, quality: int) -> None:
        self.root, self.quality, self.files, self.digest = root, quality, 0, hashlib.sha256()
        self.folders: set[Path] = set()

    def image(self, name: str, bgr: np.ndarray) -> None:
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        assert done
        self._write(name, data.tobytes())

    def map(self, name: str, ids: np.ndarray) -> None:
        """Writes a PNG, which changes no pixel."""
        done, data = cv2.imencode(".png", ids)
        assert done
        self._write(name, data.tobytes())

    def text(self, name: str, text: str) -> None:
        self._write(name, text.encode())

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        if path.parent not in self.folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folders.add(path.parent)
        path.write_bytes(data)
        self.files += 1
        self.digest.update(f"{name} {len(data)}\n".encode() + data)
