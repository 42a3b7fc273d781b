"""From config to parts: mechanisms, what is printed about them, and weights that cross between them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain import run
from pretrain.build import build_dataset, build_model, build_plan, description, num_workers, place
from pretrain.config import RUNTIME_KEYS, check_device, get_cfg
from pretrain.data.images import find_images
from pretrain.data.views import TrainingBatches
from pretrain.encoders import base_encoder
from pretrain.mechanisms.end_to_end import EndToEnd
from pretrain.mechanisms.memory_bank import MemoryBank, nce
from pretrain.mechanisms.simclr import SimCLR
from pretrain.moco import MoCo
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.precision import in_words
from pretrain.score import classification
from pretrain.shuffle import GroupBatchNorm2d
from tests.pretrain.conftest import MakeCfg

CPU = torch.device("cpu")
BANK = ("MODEL.MECHANISM", "memory_bank", "MODEL.SHUFFLE_BN", False)
PAIR = ("MODEL.MECHANISM", "end_to_end")
ONE = ("MODEL.MECHANISM", "simclr", "MODEL.SHUFFLE_BN", False)
CLASSES = ("MODEL.MECHANISM", "supervised", "MODEL.SHUFFLE_BN", False)


@pytest.mark.parametrize("opts, kind", [((), MoCo), (PAIR, EndToEnd), (BANK, MemoryBank), (ONE, SimCLR)])
def test_mechanisms_start_from_the_same_query_encoder(
    opts: tuple[object, ...], kind: type, images: Path, make_cfg: MakeCfg
) -> None:
    cfg = make_cfg(images, Path("unused"), *opts)
    model = build_model(cfg, num_images=80)
    assert type(model) is kind and model.get_parameter("encoder_q.fc.2.weight").shape == (16, 256)
    moco = build_model(make_cfg(images, Path("unused")))
    assert torch.equal(model.get_parameter("encoder_q.conv1.weight"), moco.get_parameter("encoder_q.conv1.weight"))


def test_bank_smaller_than_k_is_refused(images: Path, make_cfg: MakeCfg) -> None:
    with pytest.raises(ConfigError, match="MODEL.K 32 negatives .* bank of 20 images; set MODEL.K to at most 20"):
        build_model(make_cfg(images, Path("unused"), *BANK), num_images=20)


def test_the_bank_takes_one_view_and_the_number_of_its_image(images: Path, make_cfg: MakeCfg) -> None:
    files = find_images(images)
    one, two = (build_dataset(make_cfg(images, Path("unused"), *opts), files)[(0, 7)] for opts in (BANK, ()))
    assert one.views is not None and two.views is not None and one.number == two.number == 7
    assert len(one.views) == 1 and len(two.views) == 2 and torch.equal(one.views[0], two.views[0])


def test_either_backend_gives_bytes_from_the_same_draws(images: Path, make_cfg: MakeCfg) -> None:
    files = find_images(images)
    views = []
    for backend in ("opencv", "pil"):
        views.append(build_dataset(make_cfg(images, Path("unused"), "AUG.BACKEND", backend), files)[(0, 7)].views)
        assert views[-1] is not None and [(v.dtype, v.shape) for v in views[-1]] == [(torch.uint8, (3, 32, 32))] * 2
    fast, reference = (torch.stack(v).int() for v in views)
    assert 0 < (fast - reference).abs().float().mean() < 2
    assert get_cfg().AUG.BACKEND == "opencv" and "AUG.BACKEND" not in RUNTIME_KEYS


def test_plan_follows_the_keys(images: Path, make_cfg: MakeCfg) -> None:
    opts = (
        "SOLVER.REFERENCE_BATCH",
        16,
        "SOLVER.ACCUMULATE",
        2,
        "SOLVER.BASE_LR",
        0.1,
        *BANK,
        "MODEL.BANK_LOSS",
        "nce",
    )
    cfg = make_cfg(images, Path("unused"), *opts)
    plan = build_plan(cfg, TrainingBatches(80, 8, 2, 0))
    assert plan.learning_rate(0) == pytest.approx(0.05) and plan.learning_rate(10) == pytest.approx(0.025)
    assert (plan.per_epoch, plan.iterations, plan.epochs, plan.accumulate) == (10, 20, 2, 2)
    assert isinstance(plan.score, partial) and plan.score.keywords == {"loss": nce}
    cfg = make_cfg(images, Path("unused"), "SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", 13, "MODEL.BANK_LOSS", "nce")
    plan = build_plan(cfg, TrainingBatches(80, 8, 0, 0, iterations=13))
    assert (plan.iterations, plan.epochs, plan.score) == (13, 2, classification)


def test_what_is_derived_is_said(images: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world_size", lambda: 4)
    opts = ["MODEL.BN_GROUPS", 1, "SOLVER.BATCH_SIZE", 64, "SOLVER.REFERENCE_BATCH", 256, "SOLVER.AMP", "bf16"]
    cfg = make_cfg(images, Path("unused"), *opts, "SOLVER.ACCUMULATE", 2, "DATA.NUM_WORKERS", 3)
    assert description(cfg, CPU) == [
        "moco: acc1 (percent) is that of picking the positive among 32 negatives",
        "processes: 4 on cpu; BN groups: 8 of 8 images",
        "batch: 64 = 4 processes x 2 micro-batches x 8 images",
        f"learning rate: 0.0075 = 0.03 x 64 / 256, cosine; arithmetic: {in_words('bf16', 'cpu')}",
        "loader processes: 3 for 16 images in each of 4 processes",
        "without effect on moco: MODEL.BANK_MOMENTUM, MODEL.BANK_LOSS",
    ]
    lines = description(make_cfg(images, Path("unused"), *opts, *PAIR), CPU)
    assert "among 63 negatives" in lines[0] and lines[-1].startswith("without effect on end_to_end: MODEL.K, MODEL.M,")


def test_workers_share_the_cores(images: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert num_workers(make_cfg(images, Path("unused"), "DATA.NUM_WORKERS", -1)) == 2
    assert num_workers(make_cfg(images, Path("unused"), "DATA.NUM_WORKERS", 0)) == 0


def test_sync_bn_needs_gpus(images: Path, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    opts = ("MODEL.SYNC_BN", True, "MODEL.SHUFFLE_BN", False, "MODEL.BN_GROUPS", 1)
    cfg = make_cfg(images, Path("unused"), *opts)
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="MODEL.SYNC_BN works on GPUs only, DEVICE is cpu; set MODEL.SYNC_BN False"):
        check_device(cfg, "cpu", 2)
    check_device(cfg, "cpu", 1)
    check_device(cfg, "cuda", 2)
    assert description(cfg, CPU)[1] == "processes: 2 on cpu; BN synchronised: 1 x 8 images"


def test_backend_gpu_needs_a_gpu(images: Path, tmp_path: Path, make_cfg: MakeCfg) -> None:
    cfg = make_cfg(images, tmp_path / "run", "AUG.BACKEND", "gpu", "DEVICE", "cpu")
    with pytest.raises(ConfigError, match="AUG.BACKEND gpu finishes views on a GPU, DEVICE is cpu; set .* opencv"):
        run.main(cfg)
    assert not (tmp_path / "run" / "checkpoint_last.pth.tar").exists()
    check_device(cfg, "cuda")


def test_channels_last_changes_layout_and_nothing_else(images: Path, make_cfg: MakeCfg) -> None:
    cfg = make_cfg(images, Path("unused"), "SPEED.CHANNELS_LAST", True)
    model = place(build_model(cfg), cfg, CPU)
    assert model.get_parameter("encoder_q.conv1.weight").is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    encoder = base_encoder("resnet18", 2)(num_classes=4).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    want = encoder(x)
    encoder = encoder.to(memory_format=torch.channels_last)
    seen: list[bool] = []
    for module in encoder.modules():
        if isinstance(module, GroupBatchNorm2d):
            module.register_forward_hook(
                lambda m, i, o: seen.append(o.is_contiguous(memory_format=torch.channels_last))
            )
    torch.testing.assert_close(encoder(x.contiguous(memory_format=torch.channels_last)), want, rtol=0, atol=1e-9)
    assert len(seen) == 20 and all(seen)


def saved(model: nn.Module, path: Path) -> Path:
    checkpoint.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    return path


def test_weights_cross_between_mechanisms(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    def build(*opts: object, seed: int) -> tuple[CfgNode, nn.Module]:
        cfg = make_cfg(images, tmp_path, "SEED", seed, *opts)
        return cfg, build_model(cfg, num_images=80)

    sources = {opts: saved(build(*opts, seed=1)[1], tmp_path / f"{i}.pth") for i, opts in enumerate(((), PAIR, BANK))}
    for source, path in sources.items():
        given = checkpoint.load(path)["state_dict"]
        for target in sources:
            state = build(*target, "MODEL.WEIGHTS", path, seed=2)[1].state_dict()
            fresh = build(*target, seed=2)[1].state_dict()
            for name, value in state.items():
                if name.startswith("encoder_k.") and source == BANK:
                    want = given["module." + name.replace("encoder_k.", "encoder_q.", 1)]
                else:
                    want = given.get("module." + name, fresh[name])
                assert torch.equal(value, want), (source, target, name)


def test_mocos_query_encoder_starts_simclr_but_no_classifier(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    path = saved(build_model(make_cfg(images, tmp_path, "SEED", 1)), tmp_path / "moco.pth")
    given = checkpoint.load(path)["state_dict"]
    model = build_model(make_cfg(images, tmp_path, *ONE, "MODEL.WEIGHTS", path))
    assert all(torch.equal(value, given["module." + name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit MODEL.ARCH.*encoder_q.fc.weight is missing"):
        build_model(make_cfg(images, tmp_path, *CLASSES, "MODEL.WEIGHTS", path), num_classes=3)


def test_a_bank_of_other_images_is_refused(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    path = saved(build_model(make_cfg(images, tmp_path, *BANK), num_images=90), tmp_path / "bank.pth")
    with pytest.raises(CheckpointError, match=r"bank is \(90, 16\), the model's \(80, 16\)"):
        build_model(make_cfg(images, tmp_path, *BANK, "MODEL.WEIGHTS", path), num_images=80)
