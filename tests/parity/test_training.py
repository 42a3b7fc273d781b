"""What surrounds the model: augmentation, optimizer groups, learning rates, precise BN, and files that cross over."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch

from tests.architectures import ARCHITECTURES, options, sets
from tests.parity.models import pair
from tests.parity.test_forward import with_instances
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.data import with_objects
from transfer.engines.tv import mapper, solver

pytestmark = pytest.mark.d2

LOG = logging.getLogger(__name__)  # the measured differences: --log-cli-level INFO


def test_same_augmentation_parameters_same_tensors(generated):
    from detectron2.data import detection_utils
    from detectron2.data import transforms as T
    from detectron2.structures import BoxMode

    (spec,) = catalog.resolve(["generated_trainval"], [generated / "voc.yaml"])
    records = catalog.load(spec)
    sampler = mapper.TrainSamples(
        records, channel_order="BGR", short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0
    )
    for record, edge, flip in zip(records, [48, 64, 97, 111, 160, 200] * 2, [True, False] * 6, strict=True):
        ours = sampler.augmented(record, edge, flip)
        image = detection_utils.read_image(record["file_name"], format="BGR")
        aug = T.AugInput(image)
        flips = [T.RandomFlip(prob=1.0)] if flip else []
        transforms = T.AugmentationList([T.ResizeShortestEdge([edge], 213, "choice"), *flips])(aug)
        assert torch.equal(ours["image"], torch.from_numpy(aug.image.transpose(2, 0, 1).copy()))
        annotations = [
            detection_utils.transform_instance_annotations(
                {**a, "bbox_mode": BoxMode.XYXY_ABS}, transforms, aug.image.shape[:2]
            )
            for a in copy.deepcopy(record["annotations"])
        ]
        instances = detection_utils.filter_empty_instances(
            detection_utils.annotations_to_instances(annotations, aug.image.shape[:2])
        )
        assert torch.equal(ours["boxes"], instances.gt_boxes.tensor)
        assert torch.equal(ours["labels"], instances.gt_classes)


@pytest.mark.parametrize(
    "opts",
    [[], ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], ["SOLVER.WARMUP_METHOD", "constant"],
     ["SOLVER.STEPS", "(3, 3000)"]],
    ids=["steps", "cosine", "constant warm-up", "step within warm-up"],
)  # fmt: skip
def test_learning_rate_at_every_iteration(small_config, opts):
    from detectron2.solver import build_lr_scheduler

    from transfer.engines.tv.engine import learning_rate

    cfg = load_config(small_config, opts)
    s = cfg.SOLVER
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=s.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    ours = learning_rate(cfg)
    for i in range(s.MAX_ITER):
        assert ours(i) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), i
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay_bias": 0.0, "bias_lr_factor": 2.0}, {"weight_decay_norm": 0.01}], ids=str
)
def test_optimizer_groups(small_config, small_opts, settings):
    from detectron2.solver.build import get_default_optimizer_params

    from transfer.convert.keymap import detector_to_detectron2

    _, theirs, ours = pair(small_config, small_opts)
    common = {"base_lr": 0.02, "weight_decay": 1e-4, "weight_decay_norm": 0.0, "bias_lr_factor": 1.0,
              "weight_decay_bias": None, **settings}  # fmt: skip

    def by_name(model, groups, rename):
        names = {p: rename(n) for n, p in model.named_parameters()}
        return {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}

    expected = by_name(theirs, get_default_optimizer_params(theirs, **common), lambda n: n)
    assert by_name(ours, solver.parameter_groups(ours, **common), detector_to_detectron2) == expected


def test_batches_group_by_aspect_ratio_as_detectron2s():
    from detectron2.data.common import AspectRatioGroupedDataset

    rng = np.random.default_rng(0)
    items = [{"width": int(w), "height": 10, "at": i} for i, w in enumerate(rng.integers(5, 16, 60))]
    expected = [[item["at"] for item in batch] for batch in AspectRatioGroupedDataset(items, 4)]
    wide = [item["width"] > item["height"] for item in items]
    ours = mapper.batches(((i, i) for i in range(60)), wide, 4, grouping=True)
    assert [[i for _, i in batch] for batch in ours] == expected


@pytest.mark.parametrize("name", ["R18-C4", "R18-FPN-mask", "R18-FPN-keypoint"])
def test_a_detector_trained_by_one_engine_evaluates_the_same_on_the_other(name, generated, tmp_path):
    """Both ways round, for a detector that has learnt something: AP of boxes and of masks within 0.1."""
    from transfer.engines.d2.engine import Detectron2Engine
    from transfer.engines.tv.engine import TorchvisionEngine

    engines = {"detectron2": Detectron2Engine(), "torchvision": TorchvisionEngine()}
    config, fpn, test_set = ARCHITECTURES[name][0], "FPN" in name, sets(name)[1]
    length = ["SOLVER.MAX_ITER", "150", "SOLVER.STEPS", "(130,)"] if fpn else ["SOLVER.MAX_ITER", "30"]
    train = [*options(name, generated, tmp_path), "SOLVER.STEPS", "(25,)", *length, "DATASETS.TEST", f"('{test_set}',)",
             "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01", "SOLVER.CHECKPOINT_PERIOD", "1000"]  # fmt: skip
    for trainer, engine in engines.items():
        out = tmp_path / trainer
        trained = engine.train(load_config(config, [*train, "OUTPUT_DIR", str(out)], engine.defaults()))
        kinds = {key.partition("/")[0] for key in trained.metrics} & {"bbox", "segm", "keypoints"}
        assert kinds == {"bbox", *(["segm"] if "mask" in name else []), *(["keypoints"] if "keypoint" in name else [])}
        assert all(trained.metrics[f"{kind}/AP50"] > 0 for kind in kinds)
        for evaluator, other in engines.items():
            where = tmp_path / f"{trainer}-on-{evaluator}"
            opts = [*train, "OUTPUT_DIR", str(where), "MODEL.WEIGHTS", str(out / "model_final.pth")]
            evaluated = other.evaluate(load_config(config, opts, other.defaults()))
            assert evaluated.config_digest == trained.config_digest
            for task in kinds:
                for metric in (f"{task}/AP", f"{task}/AP50", f"{task}/AP75"):
                    assert evaluated.metrics[metric] == pytest.approx(trained.metrics[metric], abs=0.1), metric


def test_precise_bn_statistics(small_config, small_opts, generated):
    """The same batches give the same running statistics on both engines."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage
    from fvcore.nn.precise_bn import update_bn_stats

    from transfer.engines.tv import loop
    from transfer.engines.tv.weights import detectron2_state

    _, theirs, ours = pair(small_config, small_opts)
    (spec,) = catalog.resolve(["generated_trainval"], [generated / "voc.yaml"])
    records = catalog.load(spec)
    sampler = mapper.TrainSamples(
        records, channel_order="RGB", short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0
    )
    batches = [[sampler.augmented(records[i], 64, False), sampler.augmented(records[i + 1], 64, True)] for i in (0, 2)]

    def converted(batch):
        return [
            {"image": s["image"], "instances": Instances(tuple(s["image"].shape[1:]), gt_boxes=Boxes(s["boxes"]),
                                                         gt_classes=s["labels"])} for s in batch
        ]  # fmt: skip

    theirs.train()
    torch.manual_seed(1)
    with EventStorage(), torch.no_grad():
        update_bn_stats(theirs, iter([converted(b) for b in batches]), 2)
    torch.manual_seed(1)
    loop.precise_bn(ours, iter(batches), 2)
    state = detectron2_state(ours)
    for key, value in theirs.state_dict().items():
        if "running" in key:
            assert torch.allclose(value, state[key], rtol=1e-4, atol=1e-5), key


@pytest.fixture
def double_nms(monkeypatch):
    """torchvision's NMS for scores of float64 and boxes of float32, which are float32 in both engines."""
    nms = torch.ops.torchvision.nms
    monkeypatch.setattr("torchvision.ops.boxes.nms", lambda boxes, scores, t: nms(boxes.double(), scores.double(), t))


@pytest.mark.parametrize("name", ["R18-C4-mask", "R18w0.5x-C4", "R18-FPN-mask", "R50-DC5", "R18-FPN-keypoint"])
def test_many_iterations(name, generated, tmp_path, double_nms):
    """Detectron2's trainer and our loop from the same weights, on the same batches, with the same random numbers.

    Optimizer, schedule, samplers, mask targets and running statistics take part: two engines that end at the same
    weights are one algorithm. In float64 and at a small rate, because trainings part exponentially: from float32's
    rounding alone these tiny batches at rate 0.02 are 0.5 of the way apart after twelve iterations.
    """
    from detectron2.engine import SimpleTrainer, hooks
    from detectron2.solver import build_lr_scheduler, build_optimizer

    from transfer.engines.tv import loop
    from transfer.engines.tv.engine import learning_rate
    from transfer.engines.tv.weights import detectron2_state

    count = 8
    run = ["SOLVER.MAX_ITER", str(count), "SOLVER.STEPS", "(6,)", "SOLVER.WARMUP_ITERS", "4", "SOLVER.BASE_LR", "0.005"]
    cfg, theirs, ours = pair(ARCHITECTURES[name][0], [*options(name, generated, tmp_path), *run], spread=False)
    theirs.double(), ours.double()
    before = {key: value.clone() for key, value in detectron2_state(ours).items()}
    batches = _batches(cfg, sets(name), generated, count)

    theirs.train()
    optimizer = build_optimizer(cfg, theirs)
    masks = "polygon" if cfg.MODEL.MASK_ON else None
    trainer = SimpleTrainer(theirs, [with_instances(copy.deepcopy(batch), masks) for batch in batches], optimizer)
    trainer.register_hooks([hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer))])
    torch.manual_seed(5)
    trainer.train(0, count)

    s = cfg.SOLVER
    groups = solver.parameter_groups(
        ours, base_lr=s.BASE_LR, weight_decay=s.WEIGHT_DECAY, weight_decay_norm=s.WEIGHT_DECAY_NORM,
        weight_decay_bias=s.WEIGHT_DECAY_BIAS, bias_lr_factor=s.BIAS_LR_FACTOR,
    )  # fmt: skip
    training = loop.Training(ours, torch.optim.SGD(groups, lr=s.BASE_LR, momentum=s.MOMENTUM), None, tmp_path)
    torch.manual_seed(5)
    loop.run(
        training, ours, iter(batches), max_iter=count, learning_rate=learning_rate(cfg), clip=None, checkpoint_period=0,
        eval_period=0, evaluate=dict, images_per_batch=2,
    )  # fmt: skip

    expected, moved, worst = theirs.state_dict(), 0, 0.0
    for key, value in detectron2_state(ours).items():
        if value.is_floating_point():
            way = float((expected[key] - before[key]).norm())
            moved += way > 1e-6
            worst = max(worst, float((value - expected[key]).norm()) / (way + 1e-6))
    LOG.info("%s: after %d iterations %.2g of the way apart", name, count, worst)
    assert moved > 60
    assert worst < 1e-6


def _batches(cfg, chosen, generated, count):
    """As many batches of two differently resized images, one of them flipped; float64 pixels."""
    file, name, _ = chosen
    dataset = catalog.open_dataset(*catalog.resolve([name], [generated / file]))
    records = dataset.records.select(with_objects([dataset], keep_empty=False)[0])
    sampler = mapper.TrainSamples(
        records, channel_order=cfg.INPUT.FORMAT, short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0,
        mask_format="polygon" if cfg.MODEL.MASK_ON else None,
        flipped_keypoints=dataset.keypoints.flipped if dataset.keypoints else None,
    )  # fmt: skip
    batches = []
    for i in range(count):
        pictures = [records[(2 * i + j) % len(records)] for j in range(2)]
        batch = [sampler.augmented(r, 64 + 8 * (i % 3), flip=bool(j)) for j, r in enumerate(pictures)]
        batches.append([{**sample, "image": sample["image"].double()} for sample in batch])
    return batches
