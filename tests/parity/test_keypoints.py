"""Keypoints of both engines: training inputs bit by bit, the images that are trained on, loss without any RoI."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.architectures import ARCHITECTURES, options
from tests.parity.models import pair
from tests.parity.test_forward import with_instances
from tests.transfer.data.sets import keypoint_set
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.engines.tv import mapper
from transfer.engines.tv.adapters import adapter_of

pytestmark = pytest.mark.d2


@pytest.fixture
def dataset(generated):
    return catalog.open_dataset(*catalog.resolve(["generated_keypoints_train"], [generated / "keypoints.yaml"]))


def test_same_augmentation_parameters_same_points(dataset):
    from detectron2.data import detection_utils
    from detectron2.data import transforms as T

    from transfer.engines.d2.adapters.keypoints import KeypointsAdapter
    from transfer.engines.d2.register import register_datasets

    adapter = KeypointsAdapter()
    register_datasets([dataset], adapter)
    order = detection_utils.create_keypoint_hflip_indices(dataset.name)
    assert tuple(order) == dataset.keypoints.flipped == (0, 2, 1, 3, 4)
    sampler = mapper.TrainSamples(
        dataset.records, channel_order="BGR", short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0,
        flipped_keypoints=dataset.keypoints.flipped,
    )  # fmt: skip
    records = [adapter.record(record) for record in dataset.records]
    compared = 0
    for record, edge, flip in zip(records, [48, 64, 97, 111, 160, 200] * 2, [True, False] * 6, strict=True):
        record["annotations"][0]["keypoints"][:2] = [record["width"] + 3.0, 5.0]  # one that lies outside
        ours = sampler.augmented(record, edge, flip)
        aug = T.AugInput(detection_utils.read_image(record["file_name"], format="BGR"))
        flips = [T.RandomFlip(prob=1.0)] if flip else []
        transforms = T.AugmentationList([T.ResizeShortestEdge([edge], 213, "choice"), *flips])(aug)
        annotations = [
            detection_utils.transform_instance_annotations(
                a, transforms, aug.image.shape[:2], keypoint_hflip_indices=order
            )
            for a in copy.deepcopy(record["annotations"])
        ]
        instances = detection_utils.annotations_to_instances(annotations, aug.image.shape[:2])
        instances = detection_utils.filter_empty_instances(instances)
        assert torch.equal(ours["keypoints"], instances.gt_keypoints.tensor)
        assert torch.equal(ours["boxes"], instances.gt_boxes.tensor)
        compared += int((ours["keypoints"][..., 2] > 0).sum())
    assert compared > 50


@pytest.mark.parametrize("least", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("keep_empty", [True, False])
def test_the_same_images_are_trained_on(tmp_path, least, keep_empty):
    from detectron2.data import get_detection_dataset_dicts

    from transfer.engines.d2.adapters.keypoints import KeypointsAdapter
    from transfer.engines.d2.register import register_datasets

    file = keypoint_set(tmp_path)
    found = catalog.open_dataset(catalog.read_spec_file(file)[0])
    register_datasets([found], KeypointsAdapter())
    cfg = load_config(ARCHITECTURES["R18-FPN-keypoint"][0], [
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", str(least),
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(not keep_empty),
    ])  # fmt: skip
    theirs = get_detection_dataset_dicts((found.name,), not keep_empty, least)
    ours = adapter_of("keypoints").train_samples(cfg, [found], 0)
    assert [r["image_id"] for r in ours.records] == [r["image_id"] for r in theirs]


@pytest.mark.parametrize("visible", [True, False])
def test_images_without_a_labelled_point_cost_nothing_on_either_engine(generated, tmp_path, dataset, visible):
    from detectron2.utils.events import EventStorage

    cfg, theirs, ours = pair(ARCHITECTURES["R18-FPN-keypoint"][0], [*options("R18-FPN-keypoint", generated, tmp_path)])
    sampler = mapper.TrainSamples(
        dataset.records, channel_order="RGB", short_edges=[64], sampling="choice", max_size=213, flip=False, seed=0,
        flipped_keypoints=dataset.keypoints.flipped,
    )  # fmt: skip
    batch = [sampler.augmented(record, 64, False) for record in dataset.records[:2]]
    batch[0]["keypoints"] = torch.zeros_like(batch[0]["keypoints"])
    if not visible:
        batch[1]["keypoints"] = torch.zeros_like(batch[1]["keypoints"])
    theirs.train(), ours.train()
    torch.manual_seed(5)
    with EventStorage():
        a = theirs(with_instances(copy.deepcopy(batch), None))
    torch.manual_seed(5)
    b = ours(batch)
    assert (a["loss_keypoint"].item() == 0) == (b["loss_keypoint"].item() == 0) == (not visible)
    assert a["loss_keypoint"].item() == pytest.approx(b["loss_keypoint"].item(), rel=1e-5)
