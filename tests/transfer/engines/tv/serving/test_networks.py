"""The networks as they are served give what the trained ones give, up to rounding, in the same order."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.ops import box_iou

from tests import networks
from transfer.engines.tv import keypoints, mapper, masks
from transfer.engines.tv.adapters import adapter_of
from transfer.engines.tv.serving.file_formats import OPSET
from transfer.engines.tv.serving.networks import Served, apart, located, pasted
from transfer.engines.tv.serving.proof import made_up
from transfer.tasks import task_of

NAMES = ["R18-C4", "R18-C4-mask", "R50-DC5", "R18-FPN-keypoint-mask", "semantic"]
SIZES = [(97, 121), (150, 64), (64, 64), (20, 200)]


def served(name: str, *opts: str) -> Served:
    cfg = networks.config(name, Path("none"), *opts)
    task = task_of(cfg)
    assert task is not None
    return adapter_of(task.name).served(cfg, networks.network(cfg)).eval()


def both(network: Served, size: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the trained network gives for an image of this size, and what the served one."""
    image = made_up(*size)
    with torch.no_grad():
        outputs = network(mapper.to_tensor(image))
    return network.expected(image), {n: o.numpy() for n, o in zip(network.outputs, outputs, strict=True)}


def close(given: np.ndarray, expected: np.ndarray) -> None:
    """Here to the last bit; a processor whose products depend on the size of a batch may round otherwise."""
    assert given.dtype == expected.dtype and given.shape == expected.shape
    if given.dtype == np.float32:
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-3)
    elif given.ndim > 1:  # masks, maps
        assert (given != expected).mean() < 1e-3
    else:
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_network(name: str) -> None:
    network = served(name)
    found = 0
    for size in SIZES:
        expected, given = both(network, size)
        assert list(expected) == list(given)
        for key, value in expected.items():
            close(given[key], value)
        found += len(given["classes" if name == "semantic" else "scores"])
    assert found > 20


@pytest.mark.parametrize("name", ["R18-FPN-mask", "semantic"])
def test_without_a_resize(name: str) -> None:
    network = served(name, "INPUT.MIN_SIZE_TEST", "0")
    for size in ((97, 121), (64, 160)):
        expected, given = both(network, size)
        for key, value in expected.items():
            close(given[key], value)


def test_nothing_found_is_empty() -> None:
    _, given = both(served("R18-FPN-keypoint-mask", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0"), (97, 121))
    shapes = {name: array.shape for name, array in given.items()}
    assert shapes == {"boxes": (0, 4), "scores": (0,), "labels": (0,), "masks": (0, 97, 121), "keypoints": (0, 5, 3)}


def test_no_proposal_is_no_detection() -> None:
    """Every box of the RPN is as thin as MIN_SIZE refuses."""
    network = served("R18-FPN", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "100000")
    for size in SIZES[:2]:
        expected, given = both(network, size)
        assert len(given["scores"]) == len(expected["scores"]) == 0


@pytest.mark.parametrize("classes", [2, 100, 1203])
def test_classes_are_moved_apart(classes: int) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1000, (300, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(1, 333, (300, 2))], axis=1), dtype=torch.float32)
    labels = torch.from_numpy(rng.integers(0, classes, 300))
    moved, same = apart(boxes, labels, classes), labels[:, None] == labels
    assert (box_iou(moved, moved)[~same] == 0).all()
    within = 0.02 if classes != 2 else 1e-3
    assert (box_iou(moved, moved) - box_iou(boxes, boxes))[same].abs().max() < within
    assert apart(boxes[:0], labels[:0], classes).shape == (0, 4)


def test_pasted_masks_are_those_of_the_evaluation() -> None:
    """Also of boxes over the border, thinner than a pixel, and of the whole image."""
    generator = torch.Generator().manual_seed(0)
    size, probabilities = (40, 57), torch.rand(6, 28, 28, generator=generator)
    boxes = torch.tensor(
        [[3.3, 4.7, 30.1, 22.2], [0, 0, 57, 40], [10, 10, 10.4, 30], [50.5, 1, 57, 3], [0, 39.2, 57, 40], [5, 5, 6, 6]]
    )
    expected = [masks.bitmap(rle, size) for rle in masks.paste(probabilities, boxes, size)]
    np.testing.assert_array_equal(pasted(probabilities, boxes, torch.tensor(size)).numpy(), expected)


class Located(torch.nn.Module):
    def forward(self, logits: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return located(logits, boxes)


def test_keypoints_of_a_box_with_more_pixels_than_float32_counts() -> None:
    """As the served network finds them, and as its ONNX file does: 2^24 = 4096 x 4096 pixels."""
    logits = torch.randn(1, 1, 56, 56, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 54, 40] = 30
    small, large = torch.tensor([[3.0, 5.0, 40.0, 25.5]]), torch.tensor([[0.0, 0.0, 4300.0, 4201.0]])
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Located(), (logits, small), file, opset_version=OPSET, dynamo=False,
                          input_names=["logits", "boxes"])  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue())
    for boxes in (small, large):
        expected = keypoints.located(logits, boxes)
        assert torch.equal(located(logits, boxes)[..., :2], expected[..., :2])
        (given,) = session.run(None, {"logits": logits.numpy(), "boxes": boxes.numpy()})
        np.testing.assert_array_equal(given[..., :2], expected[..., :2].numpy())
