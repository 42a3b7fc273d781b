"""Pre-training on the GPU is that of the CPU: every mechanism, memory format, precision, and what a stop leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.amp import GradScaler
from torch.utils.data import default_collate

from pretrain import run
from pretrain.build import build_model, build_optimizer, mechanism, place
from pretrain.data.augment import RECIPES, TwoCrops
from pretrain.data.device_augment import CropRecipe, finish
from pretrain.encoders import ARCHITECTURES
from pretrain.loop import train_step
from pretrain.runtime import checkpoint
from pretrain.runtime.log import read_metrics
from tests.gpu.conftest import Measured
from tests.pretrain.conftest import MakeCfg
from tests.pretrain.data.test_fast_augment import photo
from tests.pretrain.test_resume import CASES, NO_SHUFFLE, Small, assert_equal, stop_and_go_on

pytestmark = pytest.mark.gpu

MECHANISMS: dict[str, list[object]] = {
    "moco": ["MODEL.MECHANISM", "moco"],
    "end_to_end": ["MODEL.MECHANISM", "end_to_end"],
    "memory_bank": ["MODEL.MECHANISM", "memory_bank", "MODEL.BANK_LOSS", "nce", *NO_SHUFFLE],
    "simclr": ["MODEL.MECHANISM", "simclr", "SOLVER.OPTIMIZER", "lars", *NO_SHUFFLE],
    "supervised": ["MODEL.MECHANISM", "supervised", *NO_SHUFFLE],
}
FOUR = ["SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", 4, "SOLVER.SCHEDULE", "exponential", "LOG_PERIOD", 1]
FOUR += ["MODEL.ARCH", "small"]
# A deep network multiplies what rounding leaves at every step; at a low rate, and with more images, less.
DEEP = ["MODEL.ARCH", "resnet18", "AUG.CROP_SIZE", 64, "SOLVER.BATCH_SIZE", 16, "SOLVER.BASE_LR", 1e-4]


class Run:
    """A finished run of four iterations: its losses, its weights, and how far those are from the first ones."""

    def __init__(self, cfg: CfgNode):
        run.main(cfg)
        folder = Path(cfg.OUTPUT_DIR)
        self.losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
        self.saved = checkpoint.load(folder / "checkpoint_last.pth.tar")
        self.state = {name.removeprefix("module."): x.cpu() for name, x in self.saved["state_dict"].items()}
        start = build_model(cfg, 80, 3).state_dict()
        self.moved = self.weights() - self.weights(start)
        assert len(self.losses) == 4 and self.moved.norm() > 0

    def weights(self, state: dict[str, Tensor] | None = None) -> Tensor:
        """All weights of the query encoder, one after the other, without BN's statistics."""
        found = self.state if state is None else state
        kept = [x.flatten() for name, x in found.items() if name.startswith("encoder_q.") and "running" not in name]
        return torch.cat([x for x in kept if x.is_floating_point()])

    def gaps(self, other: Run) -> tuple[float, float]:
        """Largest difference of losses, and that of the weights over the way that they went."""
        losses = max(abs(a - b) for a, b in zip(self.losses, other.losses, strict=True))
        return losses, float((self.moved - other.moved).norm() / self.moved.norm())


@pytest.fixture
def train(images: Path, tmp_path: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ARCHITECTURES, "small", Small)

    def train(device: torch.device | str, *opts: object) -> Run:
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        return Run(make_cfg(images, where, *FOUR, *opts, "DEVICE", torch.device(device).type))

    return train


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism(name: str, train, gpu: torch.device, measured: Measured) -> None:
    here, there = train("cpu", *MECHANISMS[name]), train(gpu, *MECHANISMS[name])
    losses, weights = here.gaps(there)
    measured.at_most(f"{name}: losses of 4 iterations, CPU and GPU", losses, 1e-4)
    measured.at_most(f"{name}: weights after them, over the way they went", weights, 1e-3)
    for key in {"queue", "bank"} & here.state.keys():
        measured.at_most(f"{name}: keys in the {key}", float((here.state[key] - there.state[key]).abs().max()), 1e-4)
    for key in {"queue_ptr"} & here.state.keys():
        assert torch.equal(here.state[key], there.state[key])


def test_micro_batches(train, gpu: torch.device, measured: Measured) -> None:
    here, there = (train(device, "SOLVER.ACCUMULATE", 2) for device in ("cpu", gpu))
    losses, weights = here.gaps(there)
    measured.at_most("moco, micro-batches: losses, CPU and GPU", losses, 1e-4)
    measured.at_most("moco, micro-batches: weights, over the way they went", weights, 1e-3)


@pytest.fixture(scope="module")
def deep() -> dict[str, Run]:
    """Where the first that trains a ResNet-18 in float32 on the GPU leaves it for the others."""
    return {}


@pytest.mark.parametrize(
    "what, opts",
    [
        ("on the CPU", []),
        ("channels_last", ["SPEED.CHANNELS_LAST", True]),
        pytest.param("compiled", ["SPEED.COMPILE", True], marks=pytest.mark.slow),
    ],
)
def test_a_resnet(what: str, opts: list[object], train, deep: dict[str, Run], gpu: torch.device, measured) -> None:
    """Equal on the GPU to itself on the CPU, in the other memory format and compiled."""
    if not deep:
        deep["plain"] = train(gpu, *DEEP)
    losses, weights = deep["plain"].gaps(train(gpu if opts else "cpu", *DEEP, *opts))
    measured.at_most(f"moco, ResNet-18, GPU and {what}: losses", losses, 3e-3)
    measured.at_most(f"moco, ResNet-18, GPU and {what}: weights, over the way they went", weights, 2e-1)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision(amp: str, train, deep, gpu: torch.device, measured: Measured, monkeypatch) -> None:
    """The scale of fp16 begins so high that the first step is left out, as it may be in any run."""
    first = partial(GradScaler, init_scale=2.0**60, backoff_factor=2.0**-50)
    monkeypatch.setattr(run, "GradScaler", first)
    if not deep:
        deep["plain"] = train(gpu, *DEEP)
    plain, half = deep["plain"], train(gpu, *DEEP, "SOLVER.AMP", amp)
    assert all(x.isfinite().all() for x in half.state.values())
    gap = abs(plain.losses[0] - half.losses[0])
    if amp == "fp16":
        assert half.saved["scaler"]["scale"] == 2.0**10
        assert max(abs(a - b) for a, b in zip(half.losses[1:], plain.losses[1:], strict=True)) < 0.5
    else:
        gap = plain.gaps(half)[0]
    measured.at_most(f"moco, ResNet-18, {amp}: losses, beside float32's", gap, 0.1)


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed(
    case: str, images: Path, tmp_path: Path, gpu, deterministic, monkeypatch, measured
) -> None:
    """SIGUSR1 in the second of five iterations: bit for bit what nothing stopped, precision and formats mixed."""
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    monkeypatch.setitem(CASES, case, [*CASES[case], "DEVICE", gpu.type])
    assert_equal(stop_and_go_on(case, images, tmp_path))
    measured.note(f"{case}: stopped and resumed", "equal, bit for bit")


STEPS = {**MECHANISMS, "moco, fp16": ["SOLVER.AMP", "fp16"], "moco, micro-batches": ["SOLVER.ACCUMULATE", 2]}


@pytest.mark.parametrize("case", STEPS)
def test_a_step_does_not_wait(case: str, make_cfg: MakeCfg, tmp_path: Path, gpu: torch.device, measured, monkeypatch):
    """After two steps to warm up, no operation has the host wait for the GPU; reading the loss would."""
    monkeypatch.setitem(ARCHITECTURES, "small", Small)
    cfg = make_cfg(tmp_path, tmp_path, "MODEL.ARCH", "small", *STEPS[case])
    model = place(build_model(cfg, 80, 3), cfg, gpu).train()
    optimizer, score = build_optimizer(cfg, model), mechanism(cfg).score(cfg)
    scaler = GradScaler(gpu.type, enabled=cfg.SOLVER.AMP == "fp16")
    views = torch.randn(8, 3, 32, 32, device=gpu)
    key = views.flip(3)
    if cfg.MODEL.MECHANISM in ("memory_bank", "supervised"):
        key = torch.arange(8, device=gpu) % 3
    step = partial(train_step, model, optimizer, views, key, score=score, parts=cfg.SOLVER.ACCUMULATE, scaler=scaler)
    for _ in range(2):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            loss, _ = step()
        with pytest.raises(RuntimeError, match="synchronizing"):
            loss.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
    measured.note(f"{case}: calls in a step that have the host wait", "none")


@pytest.mark.parametrize("name", RECIPES)
def test_views_finished_on_the_device(name: str, gpu: torch.device, measured: Measured) -> None:
    make = TwoCrops(CropRecipe(name))
    for view in default_collate([make(photo(375, 500, seed), seed) for seed in range(64)]):
        here, there = finish(view, torch.device("cpu")), finish(view, gpu).cpu()
        apart = (here.int() - there.int()).abs().max()
        measured.at_most(f"AUG.BACKEND gpu, {name}: levels of 255, CPU and GPU", float(apart), 0)
