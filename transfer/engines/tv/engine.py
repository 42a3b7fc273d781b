"""The torchvision engine's edge: reads the config, builds the parts, runs them, saves the result."""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from pretrain.runtime import checkpoint, dist
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import progress, setup_logging
from pretrain.runtime.result import RunResult
from pretrain.runtime.seed import derive, seed_everything
from pretrain.runtime.workers import start_worker
from transfer.config import defaults, support
from transfer.convert.read import read_weights
from transfer.data import catalog
from transfer.engines import base
from transfer.engines.evaluators import evaluate_detections
from transfer.engines.tv import data, loop, solver
from transfer.engines.tv.detector import Detector, build_detector
from transfer.engines.tv.launch import launch
from transfer.engines.tv.weights import detectron2_state, load_weights
from transfer.evaluation.predictions import ImageDetections

logger = logging.getLogger(__name__)


class TorchvisionEngine(base.Engine):
    """The papers' detectors on torchvision; see `transfer.config.support` for what each key does here."""

    name = "torchvision"

    def defaults(self) -> CfgNode:
        return defaults.get_cfg()

    def train(self, cfg: CfgNode, resume: str = "no", num_gpus: int = 1) -> RunResult:
        return launch(_train, cfg, num_gpus, resume)

    def evaluate(self, cfg: CfgNode, num_gpus: int = 1) -> RunResult:
        return launch(_evaluate, cfg, num_gpus)


class _Session:
    """What training and evaluation both need: notes, device, data, and a model on its device."""

    def __init__(self, cfg: CfgNode):
        self.cfg, self.notes, self.started = cfg, base.RunNotes(), time.time()
        for line in support.check(cfg):
            self.notes.add(line)
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.device = base.resolve_device(cfg.MODEL.DEVICE, self.notes)
        if cfg.SOLVER.AMP.ENABLED and not self.device.startswith("cuda"):
            raise ConfigError("SOLVER.AMP.ENABLED is fp16, which needs a GPU; set it to False on the CPU")
        self.resolved = base.resolve_norms(cfg, dist.world_size(), self.notes)
        self.seed = dist.broadcast_object(cfg.SEED if cfg.SEED >= 0 else int(torch.seed() % 2**31))
        seed_everything(self.seed, dist.rank())
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        if cfg.FLOAT32_PRECISION:
            torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        setup_logging(self.output_dir, dist.rank())
        if dist.is_main():
            base.save_config(cfg, self.output_dir)

    def datasets(self, names: Sequence[str], key: str) -> list[catalog.DatasetSpec]:
        if not names:
            raise ConfigError(f"{key} is empty; name at least one data set")
        specs = catalog.resolve(names, self.cfg.DATASETS.SPECS)
        for spec in specs:
            classes = catalog.class_names(spec)
            if len(classes) != self.cfg.MODEL.ROI_HEADS.NUM_CLASSES:
                raise ConfigError(
                    f"MODEL.ROI_HEADS.NUM_CLASSES is {self.cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but data set "
                    f"'{spec.name}' has {len(classes)} classes ({', '.join(classes[:5])}{', ...' * (len(classes) > 5)})"
                )
        return specs

    def model(self) -> Detector:
        seed_everything(self.seed)  # the same initial weights on every process
        model = build_detector(self.resolved, self.device)
        seed_everything(self.seed, dist.rank())
        return model.to(self.device)

    def test(self, model: nn.Module, specs: Sequence[catalog.DatasetSpec]) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics and details over all test sets; every process takes its share of the images."""
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        for spec in specs:
            records = catalog.load(spec)
            mine = detect(model, records[dist.rank() :: dist.world_size()], self.cfg, spec.name)
            detections = [d for part in dist.gather_objects(mine) for d in part]
            order = {r["image_id"]: i for i, r in enumerate(records)}
            detections.sort(key=lambda d: order[d.image_id])
            prefix = "" if len(specs) == 1 else f"{spec.name}/"
            values, detail = evaluate_detections(spec, records, detections, self.output_dir if dist.is_main() else None)
            metrics.update({prefix + k: v for k, v in values.items()})
            details[spec.name] = detail
        return metrics, details


def detect(model: nn.Module, records: Sequence[data.Record], cfg: CfgNode, what: str) -> list[ImageDetections]:
    """Detections of `model` (left in its mode) on every record, in the records' order."""
    samples = data.TestSamples(
        records,
        channel_order=cfg.INPUT.FORMAT,
        short_edge=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
    )
    loader = DataLoader(
        samples,
        batch_size=1,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        generator=torch.Generator(),
        worker_init_fn=start_worker,
    )
    training = model.training
    model.eval()
    out = []
    with torch.inference_mode(), progress(len(samples), f"detect {what}", "img", disable=not dist.is_main()) as bar:
        for batch in loader:
            for sample, found in zip(batch, model(batch), strict=True):
                boxes, scores, labels = (found[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
                out.append(ImageDetections(sample["image_id"], boxes, scores, labels, found.get("masks")))
                bar.update()
    model.train(training)
    return out


def _train(cfg: CfgNode, resume: str) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    resuming = base.check_resume(output_dir, resume)
    session = _Session(cfg)
    train_specs = session.datasets(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    test_specs = session.datasets(cfg.DATASETS.TEST, "DATASETS.TEST")
    samples = train_samples(cfg, train_specs, session.seed)
    initial = base.weights_file(cfg)
    model = session.model()
    if initial is None:
        session.notes.add("initialisation: random (MODEL.WEIGHTS is empty)")
    else:
        fresh = load_weights(model, read_weights(initial), initial)
        logger.info("initialisation: %s; left random: %s", initial, ", ".join(fresh) or "nothing")

    s = cfg.SOLVER
    if s.IMS_PER_BATCH % dist.world_size():
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {s.IMS_PER_BATCH} does not divide over {dist.world_size()} processes")
    groups = solver.parameter_groups(
        model,
        base_lr=s.BASE_LR,
        weight_decay=s.WEIGHT_DECAY,
        weight_decay_norm=s.WEIGHT_DECAY_NORM,
        weight_decay_bias=s.WEIGHT_DECAY_BIAS,
        bias_lr_factor=s.BIAS_LR_FACTOR,
    )
    optimizer = torch.optim.SGD(groups, lr=s.BASE_LR, momentum=s.MOMENTUM, nesterov=s.NESTEROV)
    training = loop.Training(model, optimizer, s.AMP.ENABLED, output_dir)
    if resuming:
        training.restore()
        logger.info("resumed at iteration %d of %d", training.iteration, s.MAX_ITER)

    forward: nn.Module = model
    if dist.world_size() > 1:
        devices = [torch.cuda.current_device()] if session.device.startswith("cuda") else None
        forward = nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    final = output_dir / base.FINAL_WEIGHTS
    if not (resuming and final.is_file()):
        loop.run(
            training,
            forward,
            _loader(cfg, samples, start=training.iteration),
            max_iter=s.MAX_ITER,
            learning_rate=learning_rate(cfg),
            clip=_clipper(cfg),
            checkpoint_period=s.CHECKPOINT_PERIOD,
            eval_period=cfg.TEST.EVAL_PERIOD,
            evaluate=lambda: _interim(session, model, samples, test_specs),
            images_per_batch=s.IMS_PER_BATCH,
        )
        _precise_bn(cfg, model, samples)
        training.save()
        if dist.is_main():
            checkpoint.save({"model": detectron2_state(model), "engine": "torchvision"}, final)
        dist.barrier()
    else:
        load_weights(model, read_weights(str(final)), str(final))
    metrics, details = session.test(model, test_specs)
    if dist.is_main():
        base.finish(
            "torchvision", "train", cfg, metrics, session.notes.lines, time.time() - training.seconds,
            {"weights": base.FINAL_WEIGHTS, "config": "config.yaml", "metrics": "metrics.jsonl"},
            details, initial, session.seed,
        )  # fmt: skip
    dist.barrier()


def _evaluate(cfg: CfgNode) -> None:
    session = _Session(cfg)
    specs = session.datasets(cfg.DATASETS.TEST, "DATASETS.TEST")
    path = base.weights_file(cfg)
    if path is None:
        raise ConfigError("--eval-only needs the detector to evaluate: give MODEL.WEIGHTS")
    model = session.model()
    fresh = load_weights(model, read_weights(path), path)
    if any(not name.endswith("num_batches_tracked") for name in fresh):
        raise ConfigError(
            f"'{path}' holds a trunk, not a detector: its heads would be random ({fresh[0]}, "
            "...); give the model_final.pth of a run"
        )
    metrics, details = session.test(model, specs)
    if dist.is_main():
        base.finish(
            "torchvision", "evaluate", cfg, metrics, session.notes.lines, session.started, {"config": "config.yaml"},
            details, path, session.seed,
        )  # fmt: skip
    dist.barrier()


def learning_rate(cfg: CfgNode) -> Callable[[int], float]:
    """iteration -> the rate that `cfg.SOLVER` gives it."""
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


def train_samples(cfg: CfgNode, specs: Sequence[catalog.DatasetSpec], seed: int) -> data.TrainSamples:
    """The training set as `cfg` augments it.

    Raises:
        ConfigError: no image has an object, or an object that needs a mask has none.
    """
    records = [record for spec in specs for record in catalog.load(spec)]
    usable = data.drop_empty(records) if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else records
    logger.info("training images: %d of %d (the others have no objects)", len(usable), len(records))
    if not usable:
        raise ConfigError(f"no image of {', '.join(cfg.DATASETS.TRAIN)} has an annotated object")
    if cfg.MODEL.MASK_ON:
        unmasked = [r["file_name"] for r in usable for a in r["annotations"] if "segmentation" not in a]
        if unmasked:
            raise ConfigError(
                f"MODEL.MASK_ON is True, but an object of '{unmasked[0]}' (and {len(unmasked) - 1} more) has no mask; "
                "complete the annotations, or set MODEL.MASK_ON False"
            )
    i = cfg.INPUT
    return data.TrainSamples(
        usable,
        channel_order=i.FORMAT,
        short_edges=i.MIN_SIZE_TRAIN,
        sampling=i.MIN_SIZE_TRAIN_SAMPLING,
        max_size=i.MAX_SIZE_TRAIN,
        flip=i.RANDOM_FLIP == "horizontal",
        seed=seed,
        mask_format=i.MASK_FORMAT if cfg.MODEL.MASK_ON else None,
    )


def _loader(cfg: CfgNode, samples: data.TrainSamples, start: int) -> Iterator[loop.Batch]:
    return data.train_loader(
        samples,
        cfg.SOLVER.IMS_PER_BATCH // dist.world_size(),
        grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        workers=cfg.DATALOADER.NUM_WORKERS,
        start=start,
        rank=dist.rank(),
        world_size=dist.world_size(),
    )


def _precise_bn(cfg: CfgNode, model: Detector, samples: data.TrainSamples) -> None:
    if cfg.TEST.PRECISE_BN.ENABLED:
        other = copy.copy(samples)
        other.seed = derive(samples.seed, 2)
        loop.precise_bn(model, _loader(cfg, other, start=0), cfg.TEST.PRECISE_BN.NUM_ITER)


def _interim(
    session: _Session, model: Detector, samples: data.TrainSamples, specs: Sequence[catalog.DatasetSpec]
) -> dict[str, float]:
    _precise_bn(session.cfg, model, samples)
    return session.test(model, specs)[0]


def _clipper(cfg: CfgNode) -> Callable[[list[nn.Parameter]], None] | None:
    c = cfg.SOLVER.CLIP_GRADIENTS
    if not c.ENABLED:
        return None
    return lambda parameters: solver.clip_gradients(parameters, c.CLIP_TYPE, c.CLIP_VALUE, c.NORM_TYPE)
