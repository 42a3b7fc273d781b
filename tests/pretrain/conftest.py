"""Images, a config of seconds, and one finished run that several tests look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.config import get_cfg
from pretrain.run import main
from pretrain.runtime.config import merge_file, merge_opts
from pretrain.runtime.result import RunResult

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml"

NARROW = "resnet18_w0.5x"  # a quarter of a ResNet-18's tensors, which most of a test's time goes into

MakeCfg = Callable[..., CfgNode]


def write_images(folder: Path, count: int, subfolders: int = 1) -> Path:
    """JPEGs of smooth noise, 40 x 36 pixels, each different."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % subfolders}" / f"{i:03d}.jpg" if subfolders else folder / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((40, 36), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images: with the tiny config, 10 iterations an epoch."""
    return write_images(tmp_path_factory.mktemp("images"), 80, subfolders=3)


@pytest.fixture(scope="session")
def make_cfg() -> MakeCfg:
    """make_cfg(data, output_dir, KEY, VALUE, ...) is the tiny config with a narrow encoder and these changes."""

    def make(data: Path, output_dir: Path, *opts: object) -> CfgNode:
        cfg = get_cfg()
        merge_file(cfg, TINY)
        merge_opts(cfg, ["MODEL.ARCH", NARROW, "DATA.TRAIN", str(data), "OUTPUT_DIR", str(output_dir), *map(str, opts)])
        return cfg

    return make


@pytest.fixture(scope="session")
def finished(images: Path, make_cfg: MakeCfg, tmp_path_factory: pytest.TempPathFactory) -> tuple[CfgNode, RunResult]:
    """A run of 20 iterations that nothing interrupted."""
    cfg = make_cfg(images, tmp_path_factory.mktemp("finished") / "run", "CHECKPOINT.KEEP_EVERY_EPOCHS", 1)
    return cfg, main(cfg)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the reference implementation."""
    folder = os.environ.get("MOCO_REFERENCE")
    if not folder:
        pytest.skip("MOCO_REFERENCE is not set (the folder of a clone of facebookresearch/moco)")
    return Path(folder)
