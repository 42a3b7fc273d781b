"""Pre-training where every tensor must be on the GPU: nothing is mixed, the numbers are the CPU's, no step waits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from pretrain import run
from pretrain.encoders import ARCHITECTURES
from pretrain.probes import knn, lincls
from pretrain.probes.config import load_lincls
from pretrain.runtime import checkpoint
from tests.pretrain.checkpoints import write
from tests.pretrain.conftest import MakeCfg
from tests.pretrain.probes.test_finetune import FREE
from tests.pretrain.probes.test_lincls import CONFIGS, options
from tests.pretrain.test_resume import CASES, NO_SHUFFLE, Small, assert_equal, stop_and_go_on
from tests.virtual_gpu import virtual_gpu

RUNS: dict[str, list[object]] = {
    "moco": [],
    "moco, channels_last": ["SPEED.CHANNELS_LAST", True],
    "moco, bf16": ["SOLVER.AMP", "bf16"],
    "moco, fp16": ["SOLVER.AMP", "fp16"],
    "moco, micro-batches": ["SOLVER.ACCUMULATE", 2],
    "end_to_end": ["MODEL.MECHANISM", "end_to_end"],
    "memory_bank": ["MODEL.MECHANISM", "memory_bank", "MODEL.BANK_LOSS", "nce", *NO_SHUFFLE],
    "simclr": ["MODEL.MECHANISM", "simclr", "SOLVER.OPTIMIZER", "lars", *NO_SHUFFLE],
    "supervised": ["MODEL.MECHANISM", "supervised", *NO_SHUFFLE],
}


@pytest.fixture
def train(images: Path, tmp_path: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ARCHITECTURES, "small", Small)

    def train(where: str, iterations: int, *opts: object) -> tuple[dict, Counter[str]]:
        """The checkpoint, and on a GPU the waits by line."""
        how = ["SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", iterations, "SOLVER.SCHEDULE", "exponential", "LOG_PERIOD", 100]
        folder = tmp_path / f"{where}-{iterations}"
        cfg = make_cfg(images, folder, *how, "MODEL.ARCH", "small", "DATA.NUM_WORKERS", 0, *opts, "DEVICE", where)
        places: Counter[str] = Counter()
        if where == "cuda":
            with virtual_gpu() as gpu:
                run.main(cfg)
            places = gpu.places
        else:
            run.main(cfg)
        return checkpoint.load(folder / "checkpoint_last.pth.tar"), places

    return train


@pytest.mark.parametrize("name", RUNS)
def test_equals_the_cpu_and_no_step_waits(name: str, train) -> None:
    here, _ = train("cpu", 2, *RUNS[name])
    there, few = train("cuda", 2, *RUNS[name])
    assert here["state_dict"].keys() == there["state_dict"].keys()
    for key, value in here["state_dict"].items():
        torch.testing.assert_close(there["state_dict"][key], value, msg=lambda text, key=key: f"{key}: {text}")
    _, many = train("cuda", 6, *RUNS[name])
    assert many - few == Counter(), "what waits in every step"


@pytest.mark.parametrize("cache", [0, 0.1])
def test_views_finished_on_the_gpu_are_torchvisions_and_no_step_waits(cache: float, train) -> None:
    opts = ["AUG.BACKEND", "gpu", "DATA.CACHE", cache]
    here, _ = train("cpu", 2, "AUG.BACKEND", "pil")
    there, few = train("cuda", 2, *opts)
    for key, value in here["state_dict"].items():  # but for a level in some pixels of a crop
        torch.testing.assert_close(there["state_dict"][key], value, rtol=0.02, atol=2e-3)
    _, many = train("cuda", 6, *opts)
    assert many - few == Counter(), "what waits in every step"


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed(case: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    monkeypatch.setitem(CASES, case, [*CASES[case], "DEVICE", "cuda"])
    with virtual_gpu():
        states = stop_and_go_on(case, images, tmp_path)
    assert_equal(states)


def test_knn(generated: Path, tmp_path: Path) -> None:
    weights = write(tmp_path / "moco.pth.tar")
    sets = generated / "iconic" / "train", generated / "iconic" / "val"
    how = {"resize": 36, "crop_size": 32, "num_workers": 0, "k": 4}
    here = knn.main(weights, *sets, tmp_path / "here", **how, device_name="cpu")
    with virtual_gpu():
        there = knn.main(weights, *sets, tmp_path / "there", **how, device_name="cuda")
    assert here.metrics == there.metrics and there.provenance["computed_on"] == "cuda"


@pytest.mark.parametrize(
    ("trunk", "opts"), [("frozen", ()), ("frozen", ("AUG.TRAIN", True)), ("free", (*FREE, "SPEED.CHANNELS_LAST", True))]
)
def test_a_classifier(trunk: str, opts: tuple[object, ...], generated: Path, tmp_path: Path) -> None:
    weights = write(tmp_path / "moco.pth.tar")
    here, there = (
        load_lincls(
            CONFIGS / "lincls_tiny.yaml", options(generated, weights, tmp_path / device, *opts, "DEVICE", device), trunk
        )
        for device in ("cpu", "cuda")
    )
    found = lincls.main(here).metrics
    with virtual_gpu():
        again = lincls.main(there).metrics
    assert {**again, "images_per_second": 0} == {**found, "images_per_second": 0}
