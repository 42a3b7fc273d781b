"""Same weights, same image: the same proposals, boxes and scores. Same samples: the same losses and gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.parity.models import pair
from transfer.data import catalog
from transfer.engines.tv import data

pytestmark = pytest.mark.d2


@pytest.fixture
def records(generated):
    return catalog.load(*catalog.resolve(["generated_test"], [generated / "voc.yaml"]))


def inputs(cfg, records):
    """The same test images for both engines: Detectron2's mapper and ours must make the same tensors."""
    from detectron2.data import DatasetMapper

    samples = data.TestSamples(
        records,
        channel_order=cfg.INPUT.FORMAT,
        short_edge=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
    )
    mapper = DatasetMapper(cfg, is_train=False)
    for i, record in enumerate(records):
        theirs, ours = mapper(record), samples[i]
        assert torch.equal(theirs["image"], ours["image"])
        yield theirs, ours


def greedy_match(boxes_a, scores_a, boxes_b, scores_b):
    """Pairs each detection of a with the nearest of b; returns (largest box distance, largest score distance)."""
    assert len(scores_a) == len(scores_b)
    if not len(scores_a):
        return 0.0, 0.0
    distance = np.abs(boxes_a[:, None] - boxes_b[None]).max(axis=2) + np.abs(scores_a[:, None] - scores_b[None])
    nearest = distance.argmin(axis=1)
    assert len(set(nearest)) == len(nearest)
    return np.abs(boxes_a - boxes_b[nearest]).max(initial=0), np.abs(scores_a - scores_b[nearest]).max(initial=0)


@pytest.mark.parametrize(
    "extra",
    [[], ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"],
     ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256", "MODEL.RESNETS.STRIDE_IN_1X1", "True",
      "INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]],
    ids=["R18", "R50", "R50-MSRA"],
)  # fmt: skip
def test_detections(small_config, small_opts, records, extra):
    cfg, theirs, ours = pair(small_config, [*small_opts, *extra])
    theirs.eval(), ours.eval()
    worst, total = [0.0, 0.0], 0
    with torch.inference_mode():
        for their_input, our_input in inputs(cfg, records):
            a, b = theirs([their_input])[0]["instances"], ours([our_input])[0]
            total += len(a)
            assert len(a) == len(b["scores"])
            for cls in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES):
                of_a, of_b = a[a.pred_classes == cls], b["labels"] == cls
                box, score = greedy_match(
                    of_a.pred_boxes.tensor.numpy(),
                    of_a.scores.numpy(),
                    b["boxes"][of_b].numpy(),
                    b["scores"][of_b].numpy(),
                )
                worst = [max(worst[0], box), max(worst[1], score)]
    assert total > 20, "a comparison of nothing"
    assert worst[0] < 0.01 and worst[1] < 1e-4, worst


def test_losses_and_gradients(small_config, small_opts, records):
    """Both engines draw from torch's generator in the same order: one seed gives both the same samples."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg, theirs, ours = pair(small_config, small_opts)
    sampler = data.TrainSamples(
        records, channel_order="RGB", short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0
    )
    batch = [sampler.augmented(record, 64 + 16 * i, flip=bool(i)) for i, record in enumerate(records[:3])]
    their_batch = []
    for sample in batch:
        size = tuple(sample["image"].shape[1:])
        instances = Instances(size, gt_boxes=Boxes(sample["boxes"]), gt_classes=sample["labels"])
        their_batch.append({"image": sample["image"], "instances": instances, "height": size[0], "width": size[1]})
    theirs.train(), ours.train()
    torch.manual_seed(5)
    with EventStorage():
        a = theirs(copy.deepcopy(their_batch))
    torch.manual_seed(5)
    b = ours(batch)
    assert set(a) == set(b)
    for name in a:
        assert abs(float(a[name]) - float(b[name])) < 1e-5 * max(1, abs(float(a[name]))), (name, a[name], b[name])
    sum(a.values()).backward()
    sum(b.values()).backward()
    from transfer.convert.keymap import detector_to_detectron2

    their_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected = their_gradients.pop(detector_to_detectron2(name))
        assert float((parameter.grad - expected).norm()) <= 1e-4 * float(expected.norm()) + 1e-9, name
    assert not their_gradients
