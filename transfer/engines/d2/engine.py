"""Implements the engine contract with Detectron2: its trainer runs with our config, our head and our notes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.engine import launch
from detectron2.evaluation.evaluator import inference_context
from detectron2.modeling import build_model
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.runtime import dist
from pretrain.runtime.alone import alone_in
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import progress, setup_logging
from pretrain.runtime.preempt import Preempted, StopRequest
from pretrain.runtime.provenance import file_sha256
from pretrain.runtime.result import RunResult
from pretrain.runtime.workers import check_workers
from transfer.config.basic_blocks import check_basic_blocks
from transfer.convert import keymap
from transfer.convert.read import read_weights
from transfer.data.dataset import Dataset
from transfer.data.missing import Missing
from transfer.data.spec import DatasetError, Record
from transfer.engines import base, machines, resolve, results, resume, testing
from transfer.engines.d2 import names, register, whole_files
from transfer.engines.d2.adapters import adapter_of
from transfer.engines.d2.trainer import Stopped, Trainer
from transfer.engines.data import check_run_data, open_run_data, with_objects
from transfer.engines.training_input import TrainingInput
from transfer.tasks import task_of

logger = logging.getLogger(__name__)


class Detectron2Engine(base.Engine):
    """Runs the papers' detectors on Detectron2, which itself honours every key that is its own."""

    name = "detectron2"

    def defaults(self) -> CfgNode:
        cfg = get_cfg()
        register.add(cfg)
        return cfg

    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        return _launch(_train, cfg, num_gpus, resume)

    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        return _launch(_evaluate, cfg, num_gpus)

    def predict(self, cfg: CfgNode, images: Sequence[Record]) -> Iterator[Any]:
        path, notes, task = resolve.detector_file(cfg, "a prediction"), resolve.RunNotes(), task_of(cfg)
        if task is None:
            raise ConfigError(f"no task of this project is what the config asks for ({cfg.MODEL.META_ARCHITECTURE})")
        check_basic_blocks(cfg)
        _check_machine(cfg)
        register.register_parts()
        adapter = adapter_of(task.name)
        cfg = resolve.norms(adapter.prepare(cfg), 1, notes)
        cfg.defrost()
        cfg.MODEL.DEVICE = resolve.device(cfg.MODEL.DEVICE, notes)
        model = _loaded(cfg, path).eval()
        cfg.MODEL.KEYPOINT_ON = False  # the mapper of test images asks the training sets for their keypoints' names
        mapper = adapter.named_mapper(cfg, is_train=False)
        with progress(len(images), "predict", "img") as bar:
            for image in images:
                sample = mapper(image)
                with torch.inference_mode():
                    (output,) = model([sample])
                yield adapter.prediction(sample, output)
                bar.update()

    def missing(self, cfg: CfgNode) -> list[Missing]:
        return _missing(cfg)

    def training_inputs(self, cfg: CfgNode, count: int) -> Iterator[TrainingInput]:
        _check_present(cfg)
        run = open_run_data(cfg, training=True)
        adapter = adapter_of(run.task.name)
        register.register_datasets(run.train, adapter)
        cfg = adapter.prepare(cfg)
        records = adapter.training_records(cfg)
        mapper = adapter.named_mapper(cfg, is_train=True)
        seed = max(cfg.SEED, 0)
        order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
        state = np.random.get_state()
        np.random.seed(seed)  # Detectron2 augments by numpy's global generator
        try:
            for index in order[:count]:
                yield adapter.training_input(cfg, records[index], mapper(records[index]))
        finally:
            np.random.set_state(state)

    def check_config(self, cfg: CfgNode, processes: int = 1, facts: Mapping[str, Any] | None = None) -> None:
        check_basic_blocks(cfg)
        super().check_config(cfg, processes, facts)

    def unfit_device(self, cfg: CfgNode, processes: int = 1) -> str | None:
        return unfit_device(cfg) or _too_few_gpus(processes)

    def part_names(self) -> Mapping[str, Collection[str]]:
        return names.part_names()


def unfit_device(cfg: CfgNode) -> str | None:
    """Returns that Detectron2 needs a GPU for mixed precision, if the config asks for it without one."""
    if not cfg.SOLVER.AMP.ENABLED or resolve.device(cfg.MODEL.DEVICE) != "cpu":
        return None
    return (
        "SOLVER.AMP.ENABLED needs a GPU in Detectron2; set it to False on the CPU, or use --engine torchvision with "
        "SOLVER.AMP.PRECISION bf16"
    )


def _too_few_gpus(processes: int) -> str | None:
    """Returns that Detectron2 needs a GPU for each of several processes, if there are fewer here."""
    if processes == 1 or torch.cuda.device_count() >= processes:
        return None
    return (
        f"--num-gpus {processes}, but there are {torch.cuda.device_count()} GPUs here; Detectron2 trains in several "
        "processes only on GPUs (the torchvision engine also does on the CPU)"
    )


def _launch(job: Callable[..., None], cfg: CfgNode, num_gpus: int, mode: str | None = None) -> RunResult:
    """Runs a training, or an evaluation if `mode` is None: here, in `num_gpus` processes, or as part of a group."""
    args = () if mode is None else (mode,)
    check_basic_blocks(cfg)
    _check_machine(cfg)
    if mode is None:
        resume.check_evaluation(Path(cfg.OUTPUT_DIR))
        resolve.detector_file(cfg, "--eval-only")
    else:
        base.check_batch(cfg, max(num_gpus, dist.world_size()))
    warnings = [] if mode is None else base.lint_before_training(cfg, names.part_names())
    warnings += check_run_data(cfg, training=mode is not None)
    if dist.world_size() > 1:
        if mode is not None and resolve.device(cfg.MODEL.DEVICE) == "cpu":
            raise base.EngineError(
                f"Detectron2 trains in several processes only on GPUs, not in these {dist.world_size()} on the CPU; "
                "start one, or use --engine torchvision"
            )
        comm.create_local_process_group(machines.local_world_size())
        with alone_in(cfg.OUTPUT_DIR):
            machines.check_shared(Path(cfg.OUTPUT_DIR))
            job(cfg, *args)
            return results.add_notes(cfg.OUTPUT_DIR, warnings)
    if (unfit := _too_few_gpus(num_gpus)) is not None:
        raise base.EngineError(unfit)
    with alone_in(cfg.OUTPUT_DIR):
        with machines.spawning(num_gpus):
            launch(job, num_gpus, dist_url="auto", args=(cfg, *args))
        return results.add_notes(cfg.OUTPUT_DIR, warnings)


def _missing(cfg: CfgNode) -> list[Missing]:
    """Returns what a config's task needs, beside Detectron2 and its data sets, that this machine lacks."""
    task = task_of(cfg)
    return [] if task is None else [*adapter_of(task.name).missing(), *task.missing()]


def _check_present(cfg: CfgNode) -> None:
    """Raises EngineError if something is missing."""
    if lacking := _missing(cfg):
        each = ", and ".join(f"{thing.what} ({thing.remedy})" for thing in lacking)
        task = task_of(cfg)
        assert task is not None  # else nothing is missing
        raise base.EngineError(f"the task '{task.name}' cannot run here, missing: {each}")


def _check_machine(cfg: CfgNode) -> None:
    """Does what `_check_present` does, then reads those files; in a group the first process reads, and all raise."""
    _check_present(cfg)
    problem: str | None = None
    if (task := task_of(cfg)) is not None and dist.is_main():
        try:
            adapter_of(task.name).check()
        except DatasetError as error:
            problem = str(error)
    if (problem := dist.broadcast_object(problem)) is not None:
        raise DatasetError(problem)


class _Session:
    """Holds what training and evaluation both need; `self.cfg` has device and norm resolved for this machine."""

    def __init__(self, cfg: CfgNode, eval_only: bool):
        self.written, self.notes, self.started = cfg, resolve.RunNotes(), time.monotonic()
        if dist.world_size() > 1:  # a spawned process, which has neither a log nor what defaults() registered
            setup_logging(None, dist.rank())
        register.register_parts()
        self.data = open_run_data(cfg, training=not eval_only)
        self.adapter = adapter_of(self.data.task.name)
        for line in self.data.notes:
            self.notes.add(line)
        if not eval_only:
            needed = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and self.data.task.needs_objects
            with_objects(self.data.train, keep_empty=not needed)
        register.register_datasets((*self.data.train, *self.data.test), self.adapter)
        whole_files.set_up(cfg, eval_only)
        self.cfg = resolve.norms(self.adapter.prepare(cfg), dist.world_size(), self.notes)
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = resolve.device(cfg.MODEL.DEVICE, self.notes)
        if eval_only:  # Detectron2's mapper of test images asks the training sets, too, for their keypoints' names
            self.cfg.DATASETS.TRAIN = cfg.DATASETS.TEST
        self.cfg.freeze()
        if not eval_only and (unfit := unfit_device(cfg)) is not None:
            raise ConfigError(unfit)
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.stop = StopRequest()
        self.latest: tuple[dict[str, float], dict[str, Any]] = ({}, {})
        self.weights = resolve.weights_file(cfg)
        if self.weights is not None:
            read_weights(self.weights)  # refuses what is unsafe or unreadable before Detectron2 unpickles it

    def test(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
        return testing.test(
            self.data.test,
            lambda dataset: self.data.task.evaluator(self.cfg, dataset),
            lambda dataset: self._predict(model, dataset),
            self.output_dir,
            self.notes,
        )

    def _predict(self, model: nn.Module, dataset: Dataset) -> Iterator[Any]:
        check_workers(self.cfg.DATALOADER.NUM_WORKERS)
        mapper = self.adapter.named_mapper(self.cfg, is_train=False)
        loader = build_detection_test_loader(self.cfg, dataset.name, mapper=mapper)
        with (
            inference_context(model),
            torch.no_grad(),
            progress(len(loader), f"detect {dataset.name}", "img", disable=not dist.is_main()) as bar,
        ):
            for samples in loader:
                for sample, output in zip(samples, model(samples), strict=True):
                    yield self.adapter.prediction(sample, output)
                    bar.update()


def _train(cfg: CfgNode, mode: str) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    resuming = resume.check_resume(output_dir, mode)
    changed = resume.changed_keys(cfg, output_dir) if resuming else {}
    initial = resolve.weights_file(cfg)
    sha256 = file_sha256(initial) if initial else None
    if resuming:
        resume.check_weights(output_dir, sha256)
    session = _Session(cfg, eval_only=False)
    if session.weights is None:
        session.notes.add("initialisation: random (MODEL.WEIGHTS is empty)")
    trainer = Trainer.start(session, resuming)
    if session.weights is not None and not resuming:
        check_loaded(trainer.model, session.weights)
    if resuming:
        resume.record_change(cfg, output_dir, changed, trainer.start_iter)
    whole_files.save_config(cfg)
    if trainer.start_iter >= trainer.max_iter:  # killed between the last checkpoint and the evaluation
        metrics, details = session.test(trainer.model)
    else:
        resume.begin(output_dir, resuming, sha256)
        try:
            with session.stop:
                trainer.train()
        except Stopped as stopped:
            raise Preempted(str(stopped)) from None
        except OSError as error:  # of one of Detectron2's own writers, which name no file
            if error.filename is not None or error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(output_dir)) from error
        metrics, details = session.latest
    continued = resume.changes(output_dir)
    if dist.is_main():
        results.finish(
            "detectron2", "train", cfg, metrics, [*session.notes.lines, *(c.words for c in continued)],
            session.started, {"weights": base.FINAL_WEIGHTS, "config": "config.yaml", "metrics": "metrics.jsonl"},
            details, session.weights, cfg.SEED, max(trainer.iter, trainer.start_iter),
            resume.run_digest(cfg, continued),
        )  # fmt: skip


def _evaluate(cfg: CfgNode) -> None:
    session = _Session(cfg, eval_only=True)
    path = resolve.detector_file(cfg, "--eval-only")
    whole_files.save_config(cfg)
    model = _loaded(session.cfg, path)
    metrics, details = session.test(model)
    if dist.is_main():
        results.finish(
            "detectron2", "evaluate", cfg, metrics, session.notes.lines, session.started, {"config": "config.yaml"},
            details, session.weights, cfg.SEED,
        )  # fmt: skip


def _loaded(cfg: CfgNode, path: str) -> nn.Module:
    """Builds the config's whole network and loads the weights of a file."""
    model: nn.Module = build_model(cfg)
    DetectionCheckpointer(model).load(path)
    check_loaded(model, path, whole=True)
    return model


def check_loaded(model: nn.Module, path: str, whole: bool = False) -> None:
    """Checks that the file's trunk (or whole detector) was loaded, since Detectron2's checkpointer only warns.

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
