"""What looks at pooled RoIs: shapes, order of layers and first weights of the heads, and the masks' loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.architectures import ARCHITECTURES, options
from transfer.config.load import load_config
from transfer.engines.tv.adapters.instances import build_detector
from transfer.engines.tv.heads import HiddenBoxHead, KeypointHead, MaskHead, Res5BoxHead, box_predictor, mask_loss


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def assert_drawn(weight: Tensor, std: float, uniform: bool = False) -> None:
    """Weights with mean 0 and this spread, within five standard errors; of a uniform distribution within its bounds."""
    error = 5 * std / math.sqrt(weight.numel())
    assert abs(weight.mean().item()) < error and abs(weight.std().item() - std) < error
    assert not uniform or weight.abs().max().item() <= math.sqrt(3) * std


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_hidden_layers_are_relu_of_affine_maps_of_the_flattened_roi(layers: int) -> None:
    head = HiddenBoxHead(3 * 2 * 2, 5, layers)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -1, 1)
    pooled = torch.randn(4, 3, 2, 2)
    expected = np.array([[roi[c, y, x] for c in range(3) for y in range(2) for x in range(2)] for roi in pooled])
    state = {name: value.numpy() for name, value in head.state_dict().items()}
    assert len(state) == 2 * layers
    for number in range(1, layers + 1):
        expected = np.maximum(expected @ state[f"fc{number}.weight"].T + state[f"fc{number}.bias"], 0)
    assert np.allclose(head(pooled).detach(), expected, atol=1e-5) and head.out_channels == 5


def test_hidden_layers_begin_as_caffe2s() -> None:
    """Uniform with bound sqrt(3 / inputs): Caffe2's XavierFill, which Detectron2 uses."""
    head = HiddenBoxHead(16 * 7 * 7, 64, 2)
    for layer, inputs in ((head.fc1, 16 * 7 * 7), (head.fc2, 64)):
        assert_drawn(layer.weight, 1 / math.sqrt(inputs), uniform=True)
        assert not layer.bias.any()


def test_the_predictor_scores_the_background_last_and_boxes_of_the_foreground_alone() -> None:
    predictor = box_predictor(256, 20)
    scores, deltas = predictor(torch.randn(3, 256))
    assert scores.shape == (3, 21) and deltas.shape == (3, 80)
    assert_drawn(predictor.cls_score.weight, 0.01)
    assert_drawn(predictor.bbox_pred.weight, 0.001)
    assert not predictor.cls_score.bias.any() and not predictor.bbox_pred.bias.any()


def test_conv5_then_the_extra_norm_then_the_mean_over_the_roi() -> None:
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    head = Res5BoxHead(layer, 8, nn.BatchNorm2d).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        nn.init.uniform_(getattr(head.norm, name), 0.5, 1.5)
    pooled = torch.randn(5, 4, 6, 6)
    x = layer(pooled)
    scale = head.norm.weight / torch.sqrt(head.norm.running_var + head.norm.eps)
    maps = (x - head.norm.running_mean[:, None, None]) * scale[:, None, None] + head.norm.bias[:, None, None]
    assert torch.allclose(head.maps(pooled), maps, atol=1e-5) and maps.shape == (5, 8, 3, 3)
    assert torch.allclose(head(pooled), maps.sum(dim=(2, 3)) / 9, atol=1e-5) and head.out_channels == 8
    assert torch.equal(Res5BoxHead(layer, 8, None).maps(pooled), x)


@pytest.mark.parametrize("convolutions", [0, 1, 4])
def test_the_mask_head_doubles_the_resolution_and_has_a_map_per_class(convolutions: int) -> None:
    head = MaskHead(24, 32, convolutions, 5)
    assert head(torch.randn(3, 24, 7, 9)).shape == (3, 5, 14, 18)
    names = [f"mask_fcn{number}" for number in range(1, convolutions + 1)] + ["deconv", "predictor"]
    layers = {name: layer for name, layer in head.named_children() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)}
    assert list(layers) == names and not any(layer.bias.any() for layer in layers.values())
    inputs = 24 if convolutions == 0 else 32
    assert layers["deconv"].weight.shape == (inputs, 32, 2, 2) and layers["deconv"].stride == (2, 2)


def test_the_mask_head_begins_as_detectron2s() -> None:
    """MSRAFill by outputs; of a transposed convolution torch counts its inputs as outputs, in Detectron2 too."""
    head = MaskHead(64, 48, 2, 80)
    assert_drawn(head.mask_fcn1.weight, math.sqrt(2 / (48 * 9)))
    assert_drawn(head.mask_fcn2.weight, math.sqrt(2 / (48 * 9)))
    assert_drawn(MaskHead(64, 48, 0, 80).deconv.weight, math.sqrt(2 / (64 * 4)))
    assert_drawn(head.predictor.weight, 0.001)


def test_the_keypoint_head_quadruples_the_resolution_and_has_a_map_per_point() -> None:
    head = KeypointHead(16, (24, 32), 17)
    assert head(torch.randn(2, 16, 14, 14)).shape == (2, 17, 56, 56)
    assert [name for name, _ in head.named_children()] == [
        "conv_fcn1", "conv_fcn_relu1", "conv_fcn2", "conv_fcn_relu2", "score_lowres"
    ]  # fmt: skip
    assert_drawn(head.conv_fcn1.weight, math.sqrt(2 / (24 * 9)))
    assert_drawn(head.conv_fcn2.weight, math.sqrt(2 / (32 * 9)))
    assert_drawn(head.score_lowres.weight, math.sqrt(2 / (32 * 16)))
    assert not any(layer.bias.any() for layer in (head.conv_fcn1, head.conv_fcn2, head.score_lowres))


def test_the_mask_loss_is_the_cross_entropy_of_the_true_classes_maps() -> None:
    """A mean over RoIs and pixels; the other classes' maps get no gradient."""
    logits = (3 * torch.randn(4, 3, 5, 5)).requires_grad_()
    labels, targets = torch.tensor([2, 0, 2, 1]), torch.rand(4, 5, 5) < 0.4
    total = 0.0
    for r, label in enumerate(labels.tolist()):
        for y in range(5):
            for x in range(5):
                p = 1 / (1 + math.exp(-logits[r, label, y, x].item()))
                total -= math.log(p if targets[r, y, x] else 1 - p)
    loss = mask_loss(logits, labels, targets)
    assert loss.item() == pytest.approx(total / (4 * 25), rel=1e-5)
    loss.backward()
    taught = logits.grad.abs().sum(dim=(2, 3)) > 0
    assert taught.tolist() == [[c == label for c in range(3)] for label in labels.tolist()]


def test_without_rois_the_mask_loss_is_0_and_reaches_every_parameter() -> None:
    head = MaskHead(4, 8, 1, 3)
    loss = mask_loss(head(torch.zeros(0, 4, 7, 7)), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 14, 14) > 0)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is not None and not p.grad.any() for p in head.parameters())


def dilated_c5(model: nn.Module) -> None:
    """Two hidden layers on 512 (here 64) channels of 7 x 7 (here 4 x 4), and no conv5 of its own."""
    head = model.roi_heads.box_head
    assert [(layer.in_features, layer.out_features) for layer in (head.fc1, head.fc2)] == [(64 * 16, 64), (64, 64)]
    assert len(list(head.parameters())) == 4 and model.roi_heads.mask_head is None


def c4(model: nn.Module) -> None:
    """conv5 stands in the box head alone, and the mask head, one upsampling, looks at the same maps."""
    heads = model.roi_heads
    assert heads.mask_roi_pool is None and heads.mask_head.deconv.in_channels == heads.box_head.out_channels == 512
    assert [name for name, _ in heads.mask_head.named_children()] == ["deconv", "deconv_relu", "predictor"]
    assert isinstance(heads.box_head.norm, nn.BatchNorm2d) and not hasattr(model.backbone, "layer4")


def pyramid(model: nn.Module) -> None:
    heads = model.roi_heads
    assert list(heads.box_roi_pool.strides.values()) == [4, 8, 16, 32] == list(heads.mask_roi_pool.strides.values())
    assert heads.mask_roi_pool.output_size == 14 and heads.box_roi_pool.output_size == 7
    assert heads.mask_head.mask_fcn1.in_channels == model.backbone.channels["p2"]
    assert heads.box_head.fc1.in_features == model.backbone.channels["p2"] * 7 * 7


@pytest.mark.parametrize(("name", "check"), [("R50-DC5", dilated_c5), ("R18-C4-mask", c4), ("R18-FPN-mask", pyramid)])
def test_each_detector_has_its_head(
    name: str, check: Callable[[nn.Module], None], generated: Path, tmp_path: Path
) -> None:
    check(build_detector(load_config(ARCHITECTURES[name][0], options(name, generated, tmp_path))))
