"""Same weights, same image: the same proposals, boxes and scores. Same samples: the same losses and gradients."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from tests.architectures import ARCHITECTURES, options, sets
from tests.parity.models import pair
from transfer.convert.keymap import detector_to_detectron2
from transfer.data import catalog
from transfer.engines.tv import mapper
from transfer.tasks import task_of

pytestmark = pytest.mark.d2

LOG = logging.getLogger(__name__)  # the measured maxima: --log-cli-level INFO


def chosen_set(name, generated):
    """The records of the set that an architecture is tested on; boxes are taken from the COCO layout, too."""
    file, _, split = sets(name)
    file, split = ("coco.yaml", "generated_coco_val") if file == "voc.yaml" else (file, split)
    return catalog.open_dataset(*catalog.resolve([split], [generated / file]))


def inputs(cfg, dataset):
    """The same test images for both engines: Detectron2's mapper and ours must make the same tensors."""
    from detectron2.data import DatasetMapper

    from transfer.engines.d2.adapters import adapter_of
    from transfer.engines.d2.register import register_datasets

    cfg, records = cfg.clone(), dataset.records
    cfg.defrost()
    cfg.DATASETS.TRAIN = (dataset.name,)
    register_datasets([dataset], adapter_of(task_of(cfg).name))
    samples = mapper.TestSamples(
        records,
        channel_order=cfg.INPUT.FORMAT,
        short_edge=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
    )
    their_mapper = DatasetMapper(cfg, is_train=False)
    for i, record in enumerate(records):
        theirs, ours = their_mapper(record), samples[i]
        assert torch.equal(theirs["image"], ours["image"])
        yield theirs, ours


def greedy_match(boxes_a, scores_a, boxes_b, scores_b):
    """Pairs each detection of a with the nearest of b: largest distance of boxes, of scores, and who is whose."""
    assert len(scores_a) == len(scores_b)
    if not len(scores_a):
        return 0.0, 0.0, []
    distance = np.abs(boxes_a[:, None] - boxes_b[None]).max(axis=2) + np.abs(scores_a[:, None] - scores_b[None])
    nearest = distance.argmin(axis=1)
    assert len(set(nearest)) == len(nearest)
    gaps = np.abs(boxes_a - boxes_b[nearest]).max(initial=0), np.abs(scores_a - scores_b[nearest]).max(initial=0)
    return *gaps, nearest


def mask_iou(a, b):
    """Smallest IoU of the masks of two lists of the same length."""
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return float((both[either > 0] / either[either > 0]).min()) if either.any() else 1.0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_detections(name, generated, tmp_path):
    cfg, theirs, ours = pair(ARCHITECTURES[name][0], options(name, generated, tmp_path))
    theirs.eval(), ours.eval()
    worst, total, masked, points = [0.0, 0.0, 1.0], 0, 0, [0.0, 0.0]
    with torch.inference_mode():
        for their_input, our_input in inputs(cfg, chosen_set(name, generated)):
            a, b = theirs([their_input])[0]["instances"], ours([our_input])[0]
            total += len(a)
            assert len(a) == len(b["scores"])
            for cls in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES):
                of_a, of_b = a[a.pred_classes == cls], (b["labels"] == cls).nonzero()[:, 0]
                box, score, order = greedy_match(
                    of_a.pred_boxes.tensor.numpy(),
                    of_a.scores.numpy(),
                    b["boxes"][of_b].numpy(),
                    b["scores"][of_b].numpy(),
                )
                worst = [max(worst[0], box), max(worst[1], score), worst[2]]
                if cfg.MODEL.KEYPOINT_ON and len(order):
                    gap = (of_a.pred_keypoints - b["keypoints"][of_b[order]]).abs()
                    points = [max(points[0], float(gap[..., :2].max())), max(points[1], float(gap[..., 2].max()))]
                if cfg.MODEL.MASK_ON and len(order):
                    found = np.stack([mask_util.decode(b["masks"][of_b[i]]) for i in order]).astype(bool)
                    masked += int((found.reshape(len(found), -1).sum(1) > 0).sum())
                    worst[2] = min(worst[2], mask_iou(of_a.pred_masks, torch.from_numpy(found)))
    LOG.info("%s: %d detections, boxes %.2g px, scores %.2g, mask IoU %.6f", name, total, *worst)
    if cfg.MODEL.KEYPOINT_ON:
        LOG.info("%s: keypoints %.2g px, scores %.2g", name, *points)
        assert points[0] < 0.01 and points[1] < 1e-4, points
    assert total > 20, "a comparison of nothing"
    assert not cfg.MODEL.MASK_ON or masked > 20, "a comparison of empty masks"
    assert worst[0] < 0.01 and worst[1] < 1e-4 and worst[2] > 0.999, worst


def test_an_edge_of_0_keeps_the_size_of_test_images(generated, tmp_path):
    size = ["INPUT.MIN_SIZE_TEST", "0", "INPUT.MAX_SIZE_TEST", "50"]
    cfg, dataset = (
        pair(ARCHITECTURES["R18-C4"][0], [*options("R18-C4", generated, tmp_path), *size])[0],
        chosen_set("R18-C4", generated),
    )
    for record, (theirs, _) in zip(dataset.records, inputs(cfg, dataset), strict=True):
        assert theirs["image"].shape == (3, record["height"], record["width"])


def with_instances(batch, mask_format):
    """Our training samples as Detectron2's."""
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

    out = []
    for sample in batch:
        size = tuple(sample["image"].shape[1:])
        instances = Instances(size, gt_boxes=Boxes(sample["boxes"]), gt_classes=sample["labels"])
        if mask_format == "polygon":
            instances.gt_masks = PolygonMasks(sample["masks"].objects)
        elif mask_format == "bitmask":
            instances.gt_masks = BitMasks(sample["masks"].maps)
        if "keypoints" in sample:
            instances.gt_keypoints = Keypoints(sample["keypoints"])
        out.append({"image": sample["image"], "instances": instances, "height": size[0], "width": size[1]})
    return out


@pytest.mark.parametrize(
    ("name", "mask_format"),
    [(name, "polygon" if "mask" in name else None) for name in ARCHITECTURES] + [("R18-FPN-mask", "bitmask")],
)
def test_losses_and_gradients(name, mask_format, generated, tmp_path):
    """Both engines draw from torch's generator in the same order: one seed gives both the same samples."""
    from detectron2.utils.events import EventStorage

    cfg, theirs, ours = pair(ARCHITECTURES[name][0], options(name, generated, tmp_path))
    dataset = chosen_set(name, generated)
    records, points = dataset.records, dataset.keypoints
    sampler = mapper.TrainSamples(
        records, channel_order=cfg.INPUT.FORMAT, short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0,
        mask_format=mask_format, flipped_keypoints=points.flipped if points else None,
    )  # fmt: skip
    batch = [sampler.augmented(record, 64 + 16 * i, flip=bool(i)) for i, record in enumerate(records[:3])]
    theirs.train(), ours.train()
    torch.manual_seed(5)
    with EventStorage():
        a = theirs(with_instances(copy.deepcopy(batch), mask_format))
    torch.manual_seed(5)
    b = ours(batch)
    assert set(a) == set(b) and ("loss_mask" in a) == cfg.MODEL.MASK_ON
    assert ("loss_keypoint" in a) == cfg.MODEL.KEYPOINT_ON
    worst = [0.0, 0.0]
    for key in a:
        x, y = a[key].item(), b[key].item()
        worst[0] = max(worst[0], abs(x - y) / max(1, abs(x)))
    sum(a.values()).backward()
    sum(b.values()).backward()
    their_gradients = {key: p.grad for key, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        expected = their_gradients.pop(detector_to_detectron2(key))
        difference, scale = float((parameter.grad - expected).norm()), float(expected.norm())
        if key.endswith("score_lowres.bias"):  # shifts whole maps, which a softmax over them does not see
            assert difference < 1e-6 and scale < 1e-6
            continue
        assert difference <= 1e-4 * scale + 1e-9, key
        worst[1] = max(worst[1], difference / (scale + 1e-9))
    LOG.info("%s: losses %.2g, gradients %.2g", name, *worst)
    assert worst[0] < 1e-5
    assert not their_gradients
