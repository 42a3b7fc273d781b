"""The torchvision engine on the GPU is that of the CPU: losses, gradients, predictions; whole runs, in fp16 too."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.runtime import checkpoint
from pretrain.runtime.log import read_metrics
from pretrain.runtime.preempt import Preempted
from tests import architectures, segmentors
from tests.gpu.conftest import Measured
from tests.parity.models import SPREAD, spread_norms
from transfer.config.load import load_config
from transfer.data.catalog import open_dataset, resolve
from transfer.engines.tv import solver
from transfer.engines.tv.adapters import adapter_of
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.engines.tv.norm import norm_layer
from transfer.engines.tv.weights import detectron2_state, load_weights
from transfer.tasks import task_of

pytestmark = pytest.mark.gpu

ENGINE = TorchvisionEngine()
DETECTORS = ["R18-C4", "R18-FPN-mask", "R18-FPN-keypoint", "R50-DC5"]
NAMES = [*DETECTORS, "semantic"]
DEEP = 10.0  # what 50 layers multiply rounding by, beside 18 (measured: two ways to convolve on one CPU)


def configured(name: str, generated: Path, output: Path, *opts: object) -> CfgNode:
    """A detector, or the segmentor, at the size of the tests."""
    if name == "semantic":
        return load_config(segmentors.DEMO, [*segmentors.options(generated, output), *map(str, opts)])
    words = architectures.options(name, generated, output)
    return load_config(architectures.ARCHITECTURES[name][0], [*words, *map(str, opts)])


def plain_norms(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    for branch in (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.SEM_SEG_HEAD):
        branch.NORM = "BN" if branch.NORM else branch.NORM
    return cfg


def pair(cfg: CfgNode, gpu: torch.device) -> tuple[nn.Module, nn.Module]:
    """One network on the CPU and on the GPU, with the statistics and the sure answers of a trained one."""
    torch.manual_seed(0)
    here, there = (adapter_of(task_of(cfg).name).build(plain_norms(cfg), device) for device in ("cpu", gpu.type))
    spread_norms(here)
    state = detectron2_state(here)
    for key, factor in {**SPREAD, "sem_seg_head.predictor.weight": 30.0}.items():
        if key in state:
            state[key] *= factor
    for model in (here, there):
        load_weights(model, state, "test")
    return here, there.to(gpu)


def samples(cfg: CfgNode, training: bool) -> list[dict[str, Any]]:
    names = cfg.DATASETS.TRAIN if training else cfg.DATASETS.TEST
    dataset = open_dataset(*resolve(names, [Path(path) for path in cfg.DATASETS.SPECS]))
    adapter = adapter_of(task_of(cfg).name)
    if not training:
        return [adapter.test_samples(cfg, dataset.records)[i] for i in range(len(dataset.records))]
    augmented = adapter.train_samples(cfg, [dataset], 5)
    return [augmented[i, i] for i in range(3)]


def on_both(here: nn.Module, there: nn.Module, batch: list[dict[str, Any]], monkeypatch) -> list[dict[str, Tensor]]:
    """The losses of one step, of the same random samples among the same proposals: those of the CPU."""
    with monkeypatch.context() as patch:
        draw = torch.randperm
        patch.setattr(torch, "randperm", lambda n, device=None: draw(n).to(device or "cpu"))
        torch.manual_seed(5)
        if isinstance(getattr(here, "rpn", None), nn.Module):
            proposed = []
            propose = here.rpn.filter_proposals
            patch.setattr(here.rpn, "filter_proposals", lambda *a: proposed.append(propose(*a)) or proposed[-1])
            found = here(batch)
            device = next(there.parameters()).device
            again = tuple([x.to(device) for x in part] for part in proposed[0])
            patch.setattr(there.rpn, "filter_proposals", lambda *a: again)
        else:
            found = here(batch)
        torch.manual_seed(5)
        return [found, there(batch)]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients(name: str, generated: Path, tmp_path: Path, gpu, measured: Measured, monkeypatch) -> None:
    cfg = configured(name, generated, tmp_path)
    here, there = pair(cfg, gpu)
    a, b = on_both(here.train(), there.train(), samples(cfg, training=True), monkeypatch)
    assert set(a) == set(b) and all(x.device.type == gpu.type for x in b.values())
    gap = max(abs(a[key].item() - b[key].item()) / max(1, abs(a[key].item())) for key in a)
    measured.at_most(f"{name}: losses of a step, CPU and GPU", gap, 1e-4)
    sum(a.values()).backward(), sum(b.values()).backward()
    ours, theirs = dict(here.named_parameters()), dict(there.named_parameters())
    trained = [key for key, p in ours.items() if p.grad is not None]
    assert trained == [key for key, p in theirs.items() if p.grad is not None] and len(trained) > 20
    worst, deep = 0.0, DEEP if "R50" in name else 1.0
    total = torch.cat([ours[key].grad.flatten() for key in trained]).norm()
    for key in trained:
        difference = (ours[key].grad - theirs[key].grad.cpu()).norm()
        worst = max(worst, float(difference / (ours[key].grad.norm() + 1e-3 * total)))
    measured.at_most(f"{name}: gradients, largest difference of a tensor over its norm", worst, 1e-2 * deep)


@pytest.mark.parametrize("name", DETECTORS)
def test_detections(name: str, generated: Path, tmp_path: Path, gpu: torch.device, measured: Measured) -> None:
    """Each of the CPU's is among the GPU's; of those at a threshold, one in fifty may be missing."""
    cfg = configured(name, generated, tmp_path)
    here, there = (model.eval() for model in pair(cfg, gpu))
    total, missing, deep = 0, 0, DEEP if "R50" in name else 1.0
    worst = {"boxes": 0.0, "scores": 0.0, "keypoints": 0.0}
    with torch.inference_mode():
        for sample in samples(cfg, training=False):
            a, b = here([sample])[0], there([sample])[0]
            b = {key: x.cpu() if isinstance(x, Tensor) else x for key, x in b.items()}
            assert len(b["scores"]) == pytest.approx(len(a["scores"]), abs=2) and ("masks" in a) == ("masks" in b)
            for i, (box, score, label) in enumerate(zip(a["boxes"], a["scores"], a["labels"], strict=True)):
                total += 1
                distance = (b["boxes"] - box).abs().amax(1) + (b["scores"] - score).abs() + 1e3 * (b["labels"] != label)
                nearest = int(distance.argmin())
                if distance[nearest] > 0.5:
                    missing += 1
                    continue
                gaps = {"boxes": b["boxes"][nearest] - box, "scores": b["scores"][nearest] - score}
                if "keypoints" in a:
                    gaps["keypoints"] = (b["keypoints"][nearest] - a["keypoints"][i])[:, 2]
                worst |= {key: max(worst[key], float(gap.abs().max())) for key, gap in gaps.items()}
    assert total > 20, "a comparison of nothing"
    measured.at_most(f"{name}: share of {total} detections that only the CPU has", missing / total, 0.02)
    measured.at_most(f"{name}: boxes, pixels", worst["boxes"], 1e-2 * deep)
    measured.at_most(f"{name}: scores", worst["scores"], 1e-3 * deep)
    if "keypoint" in name:
        measured.at_most(f"{name}: scores of keypoints", worst["keypoints"], 1e-3)


def test_maps(generated: Path, tmp_path: Path, gpu: torch.device, measured: Measured) -> None:
    cfg = configured("semantic", generated, tmp_path)
    here, there = (model.eval() for model in pair(cfg, gpu))
    logits = pixels = 0.0
    with torch.inference_mode():
        for sample in samples(cfg, training=False)[:3]:
            a, b = here([sample])[0], there([sample])[0].cpu()
            assert a.shape == b.shape and a.std() > 0.01
            logits = max(logits, float((a - b).abs().max() / a.std()))
            pixels = max(pixels, float((a.argmax(0) != b.argmax(0)).float().mean()))
    measured.at_most("semantic: logits over their spread", logits, 1e-3)
    measured.at_most("semantic: share of pixels of another class", pixels, 1e-3)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run(name: str, amp: bool, generated: Path, tmp_path: Path, gpu: torch.device, measured: Measured) -> None:
    """Three iterations, statistics, evaluation; norms that synchronise, over one process."""
    opts = ["MODEL.DEVICE", gpu.type, "SOLVER.AMP.ENABLED", amp, "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", "()"]
    norm = "SEM_SEG_HEAD" if name == "semantic" else "RESNETS"
    result = ENGINE.train(configured(name, generated, tmp_path, *opts, f"MODEL.{norm}.NORM", "SyncBN"))
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert saved["metrics"].keys() == result.metrics.keys() and saved["provenance"]["computed_on"] == gpu.type
    assert any("norm 'SyncBN': with one process" in note for note in result.notes)
    (score,) = (value for key, value in result.metrics.items() if key in ("bbox/AP", "sem_seg/mIoU"))
    assert 0 <= score <= 100
    losses = [line["total_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    measured.note(f"{name}: a run in {'fp16' if amp else 'float32'}", f"loss {losses[0]:.3f}, then {losses[1]:.3f}")


@pytest.mark.parametrize("name", ["R18-FPN-mask", "semantic"])
def test_stopped_and_resumed(name: str, generated: Path, tmp_path: Path, gpu, measured: Measured, monkeypatch) -> None:
    """SIGUSR1 in the second of four iterations. RoIAlign and the maps' loss add up in any order, so that two whole runs
    differ too: a resumed one may differ by 0.05 of its way, or by four times what those do.
    """

    def cfg(folder: str) -> CfgNode:
        opts = ["MODEL.DEVICE", gpu.type, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", 9]
        return configured(name, generated, tmp_path, *opts, "OUTPUT_DIR", tmp_path / folder)

    whole, _ = ENGINE.train(cfg("whole")), ENGINE.train(cfg("again"))
    rate = solver.learning_rate
    with monkeypatch.context() as patch:

        def signalled(iteration: int, **how: Any) -> float:
            if iteration == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return rate(iteration, **how)

        patch.setattr(solver, "learning_rate", signalled)
        with pytest.raises(Preempted, match="SIGUSR1"):
            ENGINE.train(cfg("stopped"))
    middle = checkpoint.load(tmp_path / "stopped" / "model_0000001.pth")
    assert middle["iteration"] == 2 and len(middle["rng"]) == 1
    resumed = ENGINE.train(cfg("stopped"), resume="must")
    assert resumed.iterations == whole.iterations == 4 and resumed.metrics.keys() == whole.metrics.keys()
    final = {f: checkpoint.load(tmp_path / f / "model_final.pth")["model"] for f in ("whole", "again", "stopped")}
    keys = [key for key, x in final["whole"].items() if x.is_floating_point() and "running" not in key]

    def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return math.sqrt(sum(float((a[key] - b[key]).square().sum()) for key in keys))

    way = apart(final["whole"], middle["model"])
    assert way > 0
    chance, gap = (apart(final["whole"], final[folder]) / way for folder in ("again", "stopped"))
    measured.note(f"{name}: two whole runs, weights over the way from the stop", f"{chance:.1e}")
    measured.at_most(f"{name}: stopped and resumed, weights over the way from there", gap, max(5e-2, 4 * chance))


def test_sync_bn_of_one_process(gpu: torch.device, measured: Measured) -> None:
    """torch's, which the engine takes on a GPU, and this project's on the CPU: output, gradient, statistics."""
    here, there = norm_layer("SyncBN", "cpu")(6), norm_layer("SyncBN", gpu.type)(6).to(gpu)
    x = torch.randn(4, 6, 5, 3)
    gaps = []
    inputs = [x.clone().requires_grad_(), x.clone().to(gpu).requires_grad_()]
    a, b = here(inputs[0]), there(inputs[1])
    weights = torch.randn_like(x)
    (a * weights).sum().backward(), (b * weights.to(gpu)).sum().backward()
    for ours, theirs in [(a, b), (inputs[0].grad, inputs[1].grad), (here.running_var, there.running_var)]:
        gaps.append(float((ours - theirs.cpu()).detach().abs().max()))
    measured.at_most("SyncBN of one process: output, gradient, statistics", max(gaps), 1e-5)
