"""kNN, the linear probe and fine-tuning on the GPU are those of the CPU: accuracies, losses, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.probes import knn, lincls
from pretrain.probes.config import load_lincls
from pretrain.runtime.log import read_metrics
from pretrain.runtime.result import RunResult
from tests.gpu.conftest import Measured
from tests.pretrain.checkpoints import write
from tests.pretrain.probes.test_finetune import FREE
from tests.pretrain.probes.test_lincls import CONFIGS, options

pytestmark = pytest.mark.gpu

ONE_IMAGE = 100 / 8 + 1e-9  # percent of the validation set


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("weights") / "moco.pth.tar")


def losses(folder: Path | str) -> list[float]:
    return [line["loss"] for line in read_metrics(Path(folder) / "metrics.jsonl") if "loss" in line]


def test_knn(generated: Path, weights: Path, tmp_path: Path, gpu: torch.device, measured: Measured) -> None:
    found: dict[str, RunResult] = {}
    sets = generated / "iconic" / "train", generated / "iconic" / "val"
    for place, device in {"here": "cpu", "there": gpu.type}.items():
        how: dict[str, Any] = {"resize": 36, "crop_size": 32, "num_workers": 0, "device_name": device, "k": 4}
        found[place] = knn.main(weights, *sets, tmp_path / place, **how)
    for key in ("knn/acc1", "knn/acc5"):
        gap = abs(found["here"].metrics[key] - found["there"].metrics[key])
        measured.at_most(f"{key}, percent, CPU and GPU", gap, ONE_IMAGE)


def test_similarities(gpu: torch.device, measured: Measured) -> None:
    """In chunks of the queries and of the bank: the same similarities of the same neighbours."""
    torch.manual_seed(0)
    queries, bank = torch.randn(50, 16), torch.randn(300, 16)
    size = {"query_chunk": 16, "bank_chunk": 70}
    a, b = (
        knn.nearest(queries.__getitem__, 50, bank.__getitem__, 300, 10, device=device, **size)
        for device in (torch.device("cpu"), gpu)
    )
    assert all(x.device.type == "cpu" for x in b)
    measured.at_most("kNN: similarities", float((a[0] - b[0]).abs().max()), 1e-5)
    measured.at_most("kNN: share of other neighbours", float((a[1] != b[1]).float().mean()), 1e-2)


CASES: dict[str, tuple[str, tuple[object, ...], float]] = {
    "linear probe": ("frozen", (), 1e-2),
    "linear probe, augmented": ("frozen", ("AUG.TRAIN", True), 1e-2),
    "fine-tuning": ("free", (*FREE, "SOLVER.BASE_LR", 0.001), 1e-2),
    "fine-tuning, channels_last": ("free", (*FREE, "SOLVER.BASE_LR", 0.001, "SPEED.CHANNELS_LAST", True), 1e-2),
}


def trained(what: str, device: str, generated: Path, weights: Path, folder: Path, *more: object) -> CfgNode:
    trunk, opts, _ = CASES[what]
    words = options(generated, weights, folder, *opts, *more, "DEVICE", device)
    return load_lincls(CONFIGS / "lincls_tiny.yaml", words, trunk)


@pytest.mark.parametrize("what", CASES)
def test_a_classifier(what: str, generated: Path, weights: Path, tmp_path: Path, gpu, measured: Measured) -> None:
    """Losses are compared relative to their size: the probe's rate of 30 makes them large."""
    places = {"here": "cpu", "there": gpu.type}
    cfgs = {k: trained(what, device, generated, weights, tmp_path / k) for k, device in places.items()}
    found = {place: lincls.main(cfg) for place, cfg in cfgs.items()}
    a, b = (losses(cfg.OUTPUT_DIR) for cfg in cfgs.values())
    assert len(a) == len(b) >= 4
    gap = max(abs(x - y) / max(1, abs(x)) for x, y in zip(a, b, strict=True))
    measured.at_most(f"{what}: losses, CPU and GPU", gap, CASES[what][2])
    gap = abs(found["here"].metrics["acc1"] - found["there"].metrics["acc1"])
    measured.at_most(f"{what}: acc1, percent", gap, ONE_IMAGE)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_fine_tuning_in_half_precision(amp: str, generated, weights, tmp_path, gpu, measured: Measured) -> None:
    cfgs = [
        trained("fine-tuning", gpu.type, generated, weights, tmp_path / kind, "SOLVER.AMP", kind)
        for kind in ("off", amp)
    ]
    for cfg in cfgs:
        lincls.main(cfg)
    a, b = (losses(cfg.OUTPUT_DIR) for cfg in cfgs)
    gap = max(abs(x - y) for x, y in zip(a, b, strict=True))
    measured.at_most(f"fine-tuning, {amp}: losses, beside float32's", gap, 0.2)
