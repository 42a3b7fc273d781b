"""Semantic segmentation on both engines: equal logits, losses, gradients, samples and metrics; files cross over."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from tests.segmentors import DEMO, R50, R50_MSRA, options
from transfer.config.load import load_config
from transfer.convert.keymap import detector_to_detectron2
from transfer.data import catalog
from transfer.engines.tv.adapters.semantic import SemanticAdapter

pytestmark = pytest.mark.d2

LOG = logging.getLogger(__name__)  # the measured maxima: --log-cli-level INFO
CONFIGS = pytest.mark.parametrize("config", [R50, R50_MSRA, DEMO], ids=lambda p: p.stem)
ADAPTER = SemanticAdapter()


@pytest.fixture
def dataset(generated):
    (spec,) = catalog.resolve(["generated_sem_seg_val"], [generated / "semantic.yaml"])
    return catalog.open_dataset(spec)


def pair(config, opts):
    """(config, Detectron2's model, the torchvision engine's), equal weights and lively BN statistics, on the CPU."""
    from detectron2.modeling import build_model

    from transfer.engines.d2.engine import Detectron2Engine
    from transfer.engines.tv.weights import detectron2_state, load_weights

    opts = [*opts, "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    cfg = load_config(config, opts)
    torch.manual_seed(0)
    ours = ADAPTER.build(cfg, "cpu")
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(ours.sem_seg_head.predictor.weight, std=0.3)
    state = detectron2_state(ours)
    state["backbone.stem.conv1.weight"] *= sum(cfg.MODEL.PIXEL_STD) / 171.0  # std 1 would saturate every softmax
    assert not [name for name in load_weights(ours, state, "test") if "num_batches" not in name]
    theirs = build_model(load_config(config, opts, Detectron2Engine().defaults()))
    incompatible = theirs.load_state_dict(state, strict=False)
    assert not incompatible.missing_keys and not incompatible.unexpected_keys
    return cfg, theirs, ours


@CONFIGS
@pytest.mark.parametrize("short_edge", [0, 75])
def test_logits(config, short_edge, generated, tmp_path, dataset):
    """At the original size, and at another, of which no side is a multiple of the stride."""
    from transfer.engines.d2.semantic import TestMapper

    size = ["INPUT.MIN_SIZE_TEST", str(short_edge), "INPUT.MAX_SIZE_TEST", "213"]
    cfg, theirs, ours = pair(config, [*options(generated, tmp_path), *size])
    theirs.eval(), ours.eval()
    samples, mapper, worst = ADAPTER.test_samples(cfg, dataset.records), TestMapper(cfg, is_train=False), 0.0
    for i, record in enumerate(dataset.records[:3]):
        theirs_in, ours_in = mapper(record), samples[i]
        assert torch.equal(theirs_in["image"], ours_in["image"]) and "sem_seg" not in theirs_in
        with torch.inference_mode():
            a, b = theirs([theirs_in])[0]["sem_seg"], ours([ours_in])[0]
        assert a.shape == b.shape == (9, record["height"], record["width"])
        assert a.std() > 0.01 and a.isfinite().all(), "a comparison of nothing"
        worst = max(worst, float((a - b).abs().max() / a.std()))
    LOG.info("%s: logits %.2g of their spread", config.stem, worst)
    assert worst < 1e-5


@CONFIGS
def test_losses_and_gradients(config, generated, tmp_path, dataset):
    cfg, theirs, ours = pair(config, options(generated, tmp_path))
    (spec,) = catalog.resolve(["generated_sem_seg_train"], [generated / "semantic.yaml"])
    samples = ADAPTER.train_samples(cfg, [catalog.open_dataset(spec)], 5)
    batch = [samples[i, i] for i in range(4)]
    assert any((s["sem_seg"] == 255).any() for s in batch)
    theirs.train(), ours.train()
    a, b = theirs(batch), ours(batch)
    assert set(a) == set(b) == {"loss_sem_seg"}
    gap = abs(a["loss_sem_seg"].item() - b["loss_sem_seg"].item()) / a["loss_sem_seg"].item()
    a["loss_sem_seg"].backward(), b["loss_sem_seg"].backward()
    gradients, worst = {key: p.grad for key, p in theirs.named_parameters()}, 0.0
    for key, parameter in ours.named_parameters():
        expected = gradients.pop(detector_to_detectron2(key) or key)
        assert expected.norm() > 0 and parameter.grad.isfinite().all(), key
        worst = max(worst, float((parameter.grad - expected).norm() / (expected.norm() + 1e-9)))
    LOG.info("%s: loss %.2g, gradients %.2g", config.stem, gap, worst)
    assert gap < 1e-5 and worst < 1e-4 and not gradients


def test_same_draws_same_samples_as_detectron2s_transforms(generated, tmp_path, dataset):
    """Both engines' samples, and Detectron2's own transforms one after the other."""
    from detectron2.data import detection_utils
    from detectron2.data import transforms as T

    from transfer.engines.d2.semantic import CropMapper

    cfg = load_config(DEMO, [*options(generated, tmp_path), "INPUT.CROP.SIZE", "[97, 161]"])
    samples, mapper = ADAPTER.train_samples(cfg, [dataset], 0), CropMapper(cfg)
    padded = cropped = 0
    for seed, record in enumerate([*dataset.records] * 2):
        draw = samples.crops.draw(np.random.RandomState(seed).random_sample)
        ours = samples.augmented(record, draw)
        np.random.seed(seed)
        theirs = mapper(record)
        assert torch.equal(ours["image"], theirs["image"]) and torch.equal(ours["sem_seg"].long(), theirs["sem_seg"])

        image = detection_utils.read_image(record["file_name"], format="RGB")
        labels = detection_utils.read_image(record["sem_seg_file_name"], "L")[:, :, 0]
        h, w = (round(side * draw.scale) for side in labels.shape)
        top, left = int(draw.top * (max(h - 97, 0) + 1)), int(draw.left * (max(w - 161, 0) + 1))
        kept = min(h, 97), min(w, 161)
        steps = [T.ResizeTransform(*labels.shape, h, w), T.CropTransform(left, top, kept[1], kept[0])]
        flip = [T.HFlipTransform(kept[1])] if draw.flip else []
        pixels, ids = image, labels
        for step in [*steps, *flip]:
            pixels, ids = step.apply_image(pixels), step.apply_segmentation(ids)
        columns = slice(161 - kept[1], None) if draw.flip else slice(kept[1])
        assert torch.equal(ours["image"][:, : kept[0], columns], torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        assert torch.equal(ours["sem_seg"][: kept[0], columns], torch.from_numpy(ids.copy()))
        beyond = torch.ones(97, 161, dtype=torch.bool)
        beyond[: kept[0], columns] = False
        assert (ours["sem_seg"][beyond] == 255).all()
        assert (ours["image"][:, beyond] == torch.tensor([124, 116, 104])[:, None]).all()
        padded, cropped = padded + bool(beyond.any()), cropped + ((h, w) != kept)
    assert padded > 2 and cropped > 2


def test_metrics_equal_detectron2s_evaluator(dataset):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import SemSegEvaluator

    from transfer.engines.d2.adapters.semantic import SemanticAdapter as Theirs
    from transfer.engines.d2.register import register_datasets
    from transfer.evaluation.miou import Map, MIoUEvaluator

    register_datasets([dataset], Theirs())
    theirs, ours = SemSegEvaluator(dataset.name, distributed=False), MIoUEvaluator(dataset)
    theirs.reset()
    rng = np.random.default_rng(0)
    for record in dataset.records:
        logits = rng.normal(size=(9, record["height"], record["width"]))
        logits[4] = -9  # a class that is never predicted
        theirs.process([record], [{"sem_seg": torch.from_numpy(logits)}])
        ours.add(Map(record["image_id"], logits.argmax(0)))
    expected, found = theirs.evaluate()["sem_seg"], ours.scores()
    for key, value in found.metrics.items():
        assert value == pytest.approx(expected[key.partition("/")[2]], abs=1e-9), key
    for name, values in found.per_class.items():
        assert values["sem_seg/mIoU"] == pytest.approx(expected[f"IoU-{name}"], abs=1e-9, nan_ok=True)
    DatasetCatalog.remove(dataset.name), MetadataCatalog.remove(dataset.name)


def test_a_segmentor_trained_by_one_engine_evaluates_the_same_on_the_other(generated, tmp_path):
    from transfer.engines.d2.engine import Detectron2Engine
    from transfer.engines.tv.engine import TorchvisionEngine

    engines = {"detectron2": Detectron2Engine(), "torchvision": TorchvisionEngine()}
    opts = [*options(generated, tmp_path), "SOLVER.BASE_LR", "0.05", "SOLVER.MAX_ITER", "12"]
    for trainer, engine in engines.items():
        out = tmp_path / trainer
        trained = engine.train(load_config(DEMO, [*opts, "OUTPUT_DIR", str(out)], engine.defaults()))
        assert 0 < trained.metrics["sem_seg/mIoU"] < 100
        for evaluator, other in engines.items():
            where = str(tmp_path / f"{trainer}-on-{evaluator}")
            weights = ["OUTPUT_DIR", where, "MODEL.WEIGHTS", str(out / "model_final.pth")]
            evaluated = other.evaluate(load_config(DEMO, [*opts, *weights], other.defaults()))
            assert evaluated.config_digest == trained.config_digest
            for key, value in trained.metrics.items():
                assert evaluated.metrics[key] == pytest.approx(value, abs=0.05), (trainer, evaluator, key)


def test_detectron2s_own_names_of_cityscapes_are_kept(tmp_path):
    from detectron2.data import MetadataCatalog

    from transfer.data.semantic_sets import CITYSCAPES_CLASSES

    for split in ("train", "val"):
        known = MetadataCatalog.get(f"cityscapes_fine_sem_seg_{split}")
        assert tuple(known.stuff_classes) == CITYSCAPES_CLASSES and known.ignore_label == 255
        spec = catalog.builtin_specs("datasets")[f"cityscapes_fine_sem_seg_{split}"]
        assert str(spec.image_root) == known.image_dir.rstrip("/").replace("\\", "/")
        assert str(spec.layout.labels) == known.gt_dir.rstrip("/").replace("\\", "/")
