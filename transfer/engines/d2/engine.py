"""The Detectron2 engine's edge: Detectron2's trainer on our config, our head and our notes."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, default_setup, launch
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.runtime import dist
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import MetricsWriter, setup_logging
from pretrain.runtime.preempt import Preempted, StopRequest
from pretrain.runtime.result import RunResult
from transfer.convert import keymap
from transfer.convert.read import read_weights
from transfer.data import catalog
from transfer.engines import base, machines
from transfer.engines.d2 import evaluators, names, register

logger = logging.getLogger(__name__)


class Detectron2Engine(base.Engine):
    """Every key of Detectron2 is Detectron2's to honour."""

    name = "detectron2"

    def defaults(self) -> CfgNode:
        cfg = get_cfg()
        register.add(cfg)
        return cfg

    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        return _launch(_train, cfg, num_gpus, resume)

    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        return _launch(_evaluate, cfg, num_gpus)

    def part_names(self) -> Mapping[str, Collection[str]]:
        return names.part_names()


def _launch(job: Callable[..., None], cfg: CfgNode, num_gpus: int, resume: str | None = None) -> RunResult:
    """Runs a training, or an evaluation (`resume` None): here, in `num_gpus` processes, or as one of a group."""
    args = () if resume is None else (resume,)
    warnings = [] if resume is None else base.lint_before_training(cfg, names.part_names())
    if dist.world_size() > 1:
        if resume is not None and base.resolve_device(cfg.MODEL.DEVICE, base.RunNotes()) == "cpu":
            raise base.EngineError(
                f"Detectron2 trains in several processes only on GPUs, not in these {dist.world_size()} on the CPU; "
                "start one, or use --engine torchvision"
            )
        comm.create_local_process_group(base.local_world_size())
        base.check_shared(Path(cfg.OUTPUT_DIR))
        job(cfg, *args)
        return base.add_notes(cfg.OUTPUT_DIR, warnings)
    if num_gpus > 1 and torch.cuda.device_count() < num_gpus:
        raise base.EngineError(
            f"--num-gpus {num_gpus}, but there are {torch.cuda.device_count()} GPUs here; Detectron2 trains in several "
            "processes only on GPUs (the torchvision engine also does on the CPU)"
        )
    with machines.spawning(num_gpus):
        launch(job, num_gpus, dist_url="auto", args=(cfg, *args))
    return base.add_notes(cfg.OUTPUT_DIR, warnings)


class _Session:
    """What training and evaluation both need; `self.cfg` has device and norm resolved for this machine."""

    def __init__(self, cfg: CfgNode, eval_only: bool):
        self.written, self.notes, self.started = cfg, base.RunNotes(), time.time()
        if dist.world_size() > 1:  # a spawned process, which has neither a log nor what defaults() registered
            setup_logging(None, dist.rank())
        register.register_heads()
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        if not cfg.DATASETS.TEST or not (eval_only or cfg.DATASETS.TRAIN):
            raise ConfigError("DATASETS.TRAIN or DATASETS.TEST is empty; name at least one data set")
        specs = {spec.name: spec for spec in register.register_datasets(names, cfg.DATASETS.SPECS)}
        for spec in specs.values():
            if (count := len(catalog.class_names(spec))) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
                raise ConfigError(
                    f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but data set '{spec.name}' has "
                    f"{count} classes"
                )
        self.test_specs = [specs[name] for name in cfg.DATASETS.TEST]
        default_setup(cfg, argparse.Namespace(eval_only=eval_only))
        self.cfg = base.resolve_norms(cfg, dist.world_size(), self.notes)
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = base.resolve_device(cfg.MODEL.DEVICE, self.notes)
        self.cfg.freeze()
        if cfg.SOLVER.AMP.ENABLED and self.cfg.MODEL.DEVICE == "cpu":
            raise ConfigError("SOLVER.AMP.ENABLED is fp16, which needs a GPU; set it to False on the CPU")
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.stop = StopRequest()
        self.latest: tuple[dict[str, float], dict[str, Any]] = ({}, {})
        self.weights = base.weights_file(cfg)
        if self.weights is not None:
            read_weights(self.weights)  # refuses what is unsafe or unreadable before Detectron2 unpickles it

    def test(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        for spec in self.test_specs:
            collector = evaluators.Collector(spec, self.output_dir)
            stock = evaluators.stock_evaluator(spec, self.output_dir, self.notes, self.cfg.MODEL.MASK_ON)
            loader = build_detection_test_loader(self.cfg, spec.name)
            theirs = inference_on_dataset(model, loader, DatasetEvaluators([collector, stock]))
            if dist.is_main():
                prefix = "" if len(self.test_specs) == 1 else f"{spec.name}/"
                merged = evaluators.merge(collector.metrics, theirs, self.notes)
                metrics.update({prefix + k: v for k, v in merged.items()})
                details[spec.name] = collector.details
        return metrics, details


class _MetricsFile(EventWriter):
    """Detectron2's scalars in our `metrics.jsonl`, where reports look for them on either engine."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._out: MetricsWriter | None = None
        self._last = -1

    def write(self) -> None:
        storage = get_event_storage()
        if self._out is None:  # only now is the iteration known that training resumed at
            self._out = MetricsWriter(self._trainer.session.output_dir, self._trainer.start_iter, tensorboard=False)
            self._last = self._trainer.start_iter - 1
        fresh = {k: v for k, (v, i) in storage.latest_with_smoothing_hint(20).items() if i > self._last}
        if fresh:
            self._last = storage.iter
            self._out.write(storage.iter, **fresh)

    def close(self) -> None:
        if self._out is not None:
            self._out.close()


class _Stopped(BaseException):
    """Leaves Detectron2's training loop, which logs every Exception as a crash."""


class _Stop(HookBase):
    """A checkpoint, and the end, once a signal has asked for it; several processes agree every 20 iterations."""

    def __init__(self, stop: StopRequest):
        self._stop = stop

    def after_step(self) -> None:
        trainer = self.trainer
        done = trainer.iter + 1
        asked = self._stop.anywhere() if done % 20 == 0 or dist.world_size() == 1 else ""
        if asked and done < trainer.max_iter:
            trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            dist.barrier()
            raise _Stopped(f"{asked}: stopped after {done} of {trainer.max_iter} iterations")


class Trainer(DefaultTrainer):
    """Detectron2's trainer, told where to evaluate and where to write."""

    session: _Session

    @classmethod
    def start(cls, session: _Session, resume: bool) -> Trainer:
        """Builds the trainer and loads the checkpoint to resume from, or the initial weights."""
        cls.session = session
        trainer = cls(session.cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    def build_hooks(self) -> list[HookBase]:
        return [*super().build_hooks(), _Stop(self.session.stop)]

    def build_writers(self) -> list[EventWriter]:
        return [*super().build_writers(), _MetricsFile(self)]

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, dict[str, float]]:
        """Called by Detectron2's evaluation hook, the last time after the last iteration."""
        metrics, details = cls.session.test(model)
        cls.session.latest = (metrics, details)
        grouped: dict[str, dict[str, float]] = {}
        for name, value in metrics.items():
            task, _, metric = name.rpartition("/")
            grouped.setdefault(task, {})[metric] = value
        return grouped


def _train(cfg: CfgNode, resume: str) -> None:
    resuming = base.check_resume(Path(cfg.OUTPUT_DIR), resume)
    session = _Session(cfg, eval_only=False)
    if session.weights is None:
        session.notes.add("initialisation: random (MODEL.WEIGHTS is empty)")
    trainer = Trainer.start(session, resuming)
    if session.weights is not None and not resuming:
        check_loaded(trainer.model, session.weights)
    if trainer.start_iter >= trainer.max_iter:  # killed between the last checkpoint and the evaluation
        metrics, details = session.test(trainer.model)
    else:
        try:
            with session.stop:
                trainer.train()
        except _Stopped as stopped:
            raise Preempted(str(stopped)) from None
        metrics, details = session.latest
    if dist.is_main():
        base.finish(
            "detectron2", "train", cfg, metrics, session.notes.lines, session.started,
            {"weights": base.FINAL_WEIGHTS, "config": "config.yaml", "metrics": "metrics.jsonl"},
            details, session.weights, cfg.SEED,
        )  # fmt: skip


def _evaluate(cfg: CfgNode) -> None:
    session = _Session(cfg, eval_only=True)
    if session.weights is None:
        raise ConfigError("--eval-only needs the detector to evaluate: give MODEL.WEIGHTS")
    model = Trainer.build_model(session.cfg)
    DetectionCheckpointer(model).load(session.weights)
    check_loaded(model, session.weights, whole=True)
    metrics, details = session.test(model)
    if dist.is_main():
        base.finish(
            "detectron2", "evaluate", cfg, metrics, session.notes.lines, session.started, {"config": "config.yaml"},
            details, session.weights, cfg.SEED,
        )  # fmt: skip


def check_loaded(model: nn.Module, path: str, whole: bool = False) -> None:
    """Proves that Detectron2's checkpointer, which only warns, put the file's trunk (or the whole detector) in place.

    Raises:
        CheckpointError: a tensor of the model was not set from the file.
    """
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    state = inner.state_dict()
    weights = read_weights(path)
    wrong = []
    for name, value in state.items():
        part = keymap.trunk_part(name)
        if name.endswith("num_batches_tracked") or (part is None and not whole):
            continue
        given = weights.get(name, weights.get(part or name))
        if given is None or not torch.equal(value.cpu(), given.to(value.dtype)):
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"'{path}' does not fit this model: {len(wrong)} tensors were not loaded ({', '.join(wrong[:4])}, ...); "
            "check MODEL.RESNETS.DEPTH, the number of classes, and that the file was converted for Detectron2"
        )
