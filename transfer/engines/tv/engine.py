"""Implements the engine contract with torchvision: reads the config, builds and runs the parts, saves the result."""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import setup_logging
from pretrain.runtime.precision import in_words
from pretrain.runtime.provenance import file_sha256
from pretrain.runtime.result import RunResult
from pretrain.runtime.seed import derive, seed_everything
from transfer.config import defaults
from transfer.convert.read import read_weights
from transfer.data.dataset import Dataset
from transfer.data.missing import Missing
from transfer.data.records import PackedRecords
from transfer.data.spec import Record
from transfer.engines import base, resolve, results, resume, testing
from transfer.engines.data import open_run_data
from transfer.engines.sampling import configured_factors, index_stream
from transfer.engines.training_input import TrainingInput
from transfer.engines.tv import loop, mapper, solver
from transfer.engines.tv.adapters import ADAPTERS, adapter_of, check_support, part_names
from transfer.engines.tv.inference import load_whole, predictions
from transfer.engines.tv.launch import launch
from transfer.engines.tv.serving.export import export
from transfer.engines.tv.weights import detectron2_state, grouped, load_weights
from transfer.tasks import task_of
from transfer.tasks.installing import how_to_install

logger = logging.getLogger(__name__)


class TorchvisionEngine(base.Engine):
    """Runs the papers' detectors on torchvision; see `transfer.config.support` for what each key does here."""

    name = "torchvision"

    def defaults(self) -> CfgNode:
        return defaults.get_cfg()

    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        return launch(_train, cfg, num_gpus, resume)

    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        return launch(_evaluate, cfg, num_gpus)

    def predict(self, cfg: CfgNode, images: Sequence[Record]) -> Iterator[Any]:
        notes, path = resolve.RunNotes(), resolve.detector_file(cfg, "a prediction")
        for line in check_support(cfg):
            notes.add(line)
        task, device = task_of(cfg), resolve.device(cfg.MODEL.DEVICE, notes)
        assert task is not None  # check_support refuses what is no task's
        adapter = adapter_of(task.name)
        model = adapter.build(resolve.norms(cfg, 1, notes), device).to(device)
        load_whole(model, path)
        samples = adapter.test_samples(cfg, PackedRecords(images))
        yield from predictions(model, samples, adapter, cfg.DATALOADER.NUM_WORKERS, "predict")

    def export(
        self, cfg: CfgNode, output: Path, kind: str, names: Sequence[str], images: Sequence[np.ndarray]
    ) -> list[str]:
        return [str(difference) for difference in export(cfg, output, kind, names, images)]

    def training_inputs(self, cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
        run, seed = open_run_data(cfg, training=True), max(cfg.SEED, 0)
        adapter = adapter_of(run.task.name)
        samples = adapter.train_samples(cfg, run.train, seed)
        samples.factors = configured_factors(cfg, samples.records)
        stream = index_stream(len(samples.records), derive(seed, 0), factors=samples.factors)
        for position, index in islice(stream, count):
            yield adapter.training_input(cfg, samples.records[index], samples[position, index])

    def missing(self, cfg: CfgNode) -> list[Missing]:
        task = task_of(cfg)
        if task is None:
            return []
        what = f"an engine for the task '{task.name}', which the torchvision engine does not do"
        remedy = f"{how_to_install(*task.packages)}, then --engine detectron2"
        return [*([] if task.name in ADAPTERS else [Missing(what, remedy)]), *task.missing()]

    def check_config(self, cfg: CfgNode, processes: int = 1, facts: Mapping[str, Any] | None = None) -> None:
        check_support(cfg)
        super().check_config(cfg, processes, facts)

    def unfit_device(self, cfg: CfgNode, processes: int = 1) -> str | None:
        return unfit_device(cfg)

    def part_names(self) -> Mapping[str, Collection[str]]:
        return part_names()


def unfit_device(cfg: CfgNode) -> str | None:
    """Returns that fp16 needs a GPU, if the config asks for it without one."""
    if resolve.precision(cfg) != torch.float16 or resolve.device(cfg.MODEL.DEVICE) != "cpu":
        return None
    return "SOLVER.AMP.ENABLED in fp16 needs a GPU; on the CPU set it to False, or SOLVER.AMP.PRECISION to bf16"


class _Session:
    """Holds what training and evaluation both need: notes, device, data, and a model on its device."""

    def __init__(self, cfg: CfgNode, training: bool):
        self.cfg, self.notes, self.started = cfg, resolve.RunNotes(), time.monotonic()
        for line in check_support(cfg):
            self.notes.add(line)
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.device = resolve.device(cfg.MODEL.DEVICE, self.notes)
        if training and (unfit := unfit_device(cfg)) is not None:
            raise ConfigError(unfit)
        if training and cfg.SOLVER.AMP.ENABLED:
            self.notes.add(f"arithmetic: {in_words(cfg.SOLVER.AMP.PRECISION, self.device.partition(':')[0])}")
        self.data = open_run_data(cfg, training)
        self.adapter = adapter_of(self.data.task.name)
        for line in self.data.notes:
            self.notes.add(line)
        self.resolved = resolve.norms(cfg, dist.world_size(), self.notes)
        self.seed = dist.broadcast_object(cfg.SEED if cfg.SEED >= 0 else int(torch.seed() % 2**31))
        seed_everything(self.seed, dist.rank())
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        if cfg.FLOAT32_PRECISION:
            torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        setup_logging(self.output_dir, dist.rank())

    def model(self) -> nn.Module:
        seed_everything(self.seed)  # the same initial weights on every process
        model = self.adapter.build(self.resolved, self.device)
        seed_everything(self.seed, dist.rank())
        return model.to(self.device)

    def samples(self) -> mapper.Augmented:
        samples = self.adapter.train_samples(self.cfg, self.data.train, self.seed)
        samples.factors = configured_factors(self.cfg, samples.records)
        return samples

    def save_config(self) -> None:
        if dist.is_main():
            results.save_config(self.cfg, self.output_dir)

    def test(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
        """Returns metrics and details over all test sets; every process takes its share of the images."""
        return testing.test(
            self.data.test,
            lambda dataset: self.data.task.evaluator(self.cfg, dataset),
            lambda dataset: self._predict(model, dataset),
            self.output_dir,
            self.notes,
        )

    def _predict(self, model: nn.Module, dataset: Dataset) -> Iterator[Any]:
        mine = dataset.records.select(range(dist.rank(), len(dataset.records), dist.world_size()))
        samples = self.adapter.test_samples(self.cfg, mine)
        return predictions(model, samples, self.adapter, self.cfg.DATALOADER.NUM_WORKERS, f"detect {dataset.name}")


def _train(cfg: CfgNode, mode: str) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    resuming = resume.check_resume(output_dir, mode)
    changed = resume.changed_keys(cfg, output_dir) if resuming else {}
    session = _Session(cfg, training=True)
    samples = session.samples()
    initial = resolve.weights_file(cfg)
    sha256 = file_sha256(initial) if initial else None
    if resuming:
        resume.check_weights(output_dir, sha256)
    model = session.model()
    if initial is None:
        session.notes.add("initialisation: random (MODEL.WEIGHTS is empty)")
    else:
        fresh = load_weights(model, read_weights(initial), initial)
        logger.info("initialisation: %s; left random: %s", initial, grouped(fresh) or "nothing")

    s = cfg.SOLVER
    groups = solver.parameter_groups(
        model,
        base_lr=s.BASE_LR,
        weight_decay=s.WEIGHT_DECAY,
        weight_decay_norm=s.WEIGHT_DECAY_NORM,
        weight_decay_bias=s.WEIGHT_DECAY_BIAS,
        bias_lr_factor=s.BIAS_LR_FACTOR,
    )
    optimizer = torch.optim.SGD(groups, lr=s.BASE_LR, momentum=s.MOMENTUM, nesterov=s.NESTEROV)
    training = loop.Training(model, optimizer, resolve.precision(cfg), output_dir)
    if resuming:
        training.restore()
        logger.info("resumed at iteration %d of %d", training.iteration, s.MAX_ITER)
        resume.record_change(cfg, output_dir, changed, training.iteration)
    session.save_config()

    forward: nn.Module = model
    if dist.world_size() > 1:
        devices = [torch.cuda.current_device()] if session.device.startswith("cuda") else None
        forward = nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    final = output_dir / base.FINAL_WEIGHTS
    if training.iteration < s.MAX_ITER or not final.is_file():
        resume.begin(output_dir, resuming, sha256)
        loop.run(
            training,
            forward,
            _loader(cfg, samples, start=training.iteration),
            max_iter=s.MAX_ITER,
            learning_rate=learning_rate(cfg),
            clip=_clipper(cfg),
            checkpoint_period=s.CHECKPOINT_PERIOD,
            eval_period=cfg.TEST.EVAL_PERIOD,
            evaluate=lambda: _interim(session, model, samples),
            images_per_batch=s.IMS_PER_BATCH,
        )
        _precise_bn(cfg, model, samples)
        if dist.is_main():  # before the last checkpoint, from which the statistics would be taken again
            checkpoint.save({"model": detectron2_state(model), "engine": "torchvision"}, final)
        training.save()
    else:
        load_weights(model, read_weights(str(final)), str(final))
    metrics, details = session.test(model)
    continued = resume.changes(output_dir)
    if dist.is_main():
        results.finish(
            "torchvision", "train", cfg, metrics, [*session.notes.lines, *(c.words for c in continued)],
            time.monotonic() - training.seconds,
            {"weights": base.FINAL_WEIGHTS, "config": "config.yaml", "metrics": "metrics.jsonl"},
            details, initial, session.seed, training.iteration, resume.run_digest(cfg, continued),
        )  # fmt: skip
    dist.barrier()


def _evaluate(cfg: CfgNode) -> None:
    session = _Session(cfg, training=False)
    path = resolve.detector_file(cfg, "--eval-only")
    session.save_config()
    model = session.model()
    load_whole(model, path)
    metrics, details = session.test(model)
    if dist.is_main():
        results.finish(
            "torchvision", "evaluate", cfg, metrics, session.notes.lines, session.started, {"config": "config.yaml"},
            details, path, session.seed,
        )  # fmt: skip
    dist.barrier()


def learning_rate(cfg: CfgNode) -> Callable[[int], float]:
    """Returns the function that gives each iteration the learning rate of `cfg.SOLVER`."""
    s = cfg.SOLVER
    return functools.partial(
        solver.learning_rate,
        schedule=s.LR_SCHEDULER_NAME,
        base_lr=s.BASE_LR,
        base_lr_end=s.BASE_LR_END,
        max_iter=s.MAX_ITER,
        steps=s.STEPS,
        gamma=s.GAMMA,
        warmup_iters=s.WARMUP_ITERS,
        warmup_factor=s.WARMUP_FACTOR,
        warmup_method=s.WARMUP_METHOD,
    )


def _loader(cfg: CfgNode, samples: mapper.Augmented, start: int) -> Iterator[loop.Batch]:
    return mapper.train_loader(
        samples,
        cfg.SOLVER.IMS_PER_BATCH // dist.world_size(),
        grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        workers=cfg.DATALOADER.NUM_WORKERS,
        start=start,
        rank=dist.rank(),
        world_size=dist.world_size(),
        pin_memory=resolve.device(cfg.MODEL.DEVICE).startswith("cuda"),
    )


def _precise_bn(cfg: CfgNode, model: nn.Module, samples: mapper.Augmented) -> None:
    if cfg.TEST.PRECISE_BN.ENABLED:
        other = copy.copy(samples)
        other.seed = derive(samples.seed, 2)
        loop.precise_bn(model, _loader(cfg, other, start=0), cfg.TEST.PRECISE_BN.NUM_ITER)


def _interim(session: _Session, model: nn.Module, samples: mapper.Augmented) -> dict[str, float]:
    _precise_bn(session.cfg, model, samples)
    return session.test(model)[0]


def _clipper(cfg: CfgNode) -> Callable[[list[nn.Parameter]], None] | None:
    c = cfg.SOLVER.CLIP_GRADIENTS
    if not c.ENABLED:
        return None
    return lambda parameters: solver.clip_gradients(parameters, c.CLIP_TYPE, c.CLIP_VALUE, c.NORM_TYPE)
