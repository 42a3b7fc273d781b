"""The torchvision engine where every tensor must be on the GPU: nothing is mixed, the CPU's numbers, few waits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.runtime import checkpoint
from tests import architectures, segmentors
from tests.virtual_gpu import VirtualGPU, virtual_gpu
from transfer.config.load import load_config
from transfer.engines.tv import solver
from transfer.engines.tv.engine import TorchvisionEngine

ENGINE = TorchvisionEngine()
# How often the host waits in an iteration of two images: the sizes of samples and of proposals, NMS, the loss; polygons
# are drawn on the host. These are what was measured: it may not become more.
WAITS = {"R18-C4": 14, "R18-C4-mask": 18, "R18-FPN-mask": 20, "R18-FPN-keypoint": 22, "R50-DC5": 14, "semantic": 1}


def config(name: str, generated: Path, folder: Path, *opts: object) -> CfgNode:
    short = ["SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", 100, "OUTPUT_DIR", folder, *opts]
    if name == "semantic":
        return load_config(segmentors.DEMO, [*segmentors.options(generated, folder), *map(str, short)])
    words = architectures.options(name, generated, folder)
    return load_config(architectures.ARCHITECTURES[name][0], [*words, *map(str, short)])


def trained(cfg: CfgNode, resume: str = "no") -> VirtualGPU:
    with virtual_gpu() as gpu:
        result = ENGINE.train(cfg, resume=resume)
    assert result.provenance["computed_on"] == "cuda"
    return gpu


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(x) for key, x in checkpoint.load(folder / "model_final.pth")["model"].items()}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if "FPN" in name or name == "semantic" else pytest.mark.slow) for name in WAITS],
)
def test_equals_the_cpu_and_waits_little(name: str, generated: Path, tmp_path: Path) -> None:
    """Training, statistics, evaluation, in two and in four iterations: the difference is what two of them wait."""
    two, four = (
        trained(config(name, generated, tmp_path / str(n), "SOLVER.MAX_ITER", n, "MODEL.DEVICE", "cuda"))
        for n in (2, 4)
    )
    each = Counter({place: count / 2 for place, count in (four.places - two.places).items()})
    assert sum(each.values()) <= WAITS[name], "\n".join(f"{count:g} {place}" for place, count in each.most_common())
    here = ENGINE.train(config(name, generated, tmp_path / "cpu", "SOLVER.MAX_ITER", 2))
    assert here.provenance["computed_on"] == "cpu"
    there = weights(tmp_path / "2")
    for key, value in weights(tmp_path / "cpu").items():
        torch.testing.assert_close(there[key], value, msg=lambda text, key=key: f"{key}: {text}")


def test_fp16_and_norms_that_synchronise(generated: Path, tmp_path: Path) -> None:
    opts = ["MODEL.DEVICE", "cuda", "SOLVER.MAX_ITER", 2, "SOLVER.AMP.ENABLED", True, "MODEL.RESNETS.NORM", "SyncBN"]
    trained(config("R18-FPN-mask", generated, tmp_path, *opts))
    assert all(x.isfinite().all() for x in weights(tmp_path).values() if x.is_floating_point())


def test_killed_and_resumed(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the fourth of four iterations, from the checkpoint after two."""
    opts = ["MODEL.DEVICE", "cuda", "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2]
    whole, killed = (config("R18-C4", generated, tmp_path / name, *opts) for name in ("whole", "killed"))
    trained(whole)
    rate = solver.learning_rate

    def until_three(iteration: int, **how: Any) -> float:
        if iteration == 3:
            raise KeyboardInterrupt
        return rate(iteration, **how)

    with monkeypatch.context() as patch:
        patch.setattr(solver, "learning_rate", until_three)
        with pytest.raises(KeyboardInterrupt):
            trained(killed)
    trained(killed, resume="must")
    final = weights(tmp_path / "killed")
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(final[key], value), key
