"""Matcher, sampler and box coder are torchvision's, to the last bit and with the same random draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils
from torchvision.ops import box_iou

from transfer.engines.tv.matching import BoxCoder, Matcher, Sampler


def boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 60], dim=1)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("objects", [1, 7])
def test_matcher(objects: int, low_quality: bool) -> None:
    """Ties too: some anchors stand twice."""
    anchors = boxes(200, 1)
    quality = box_iou(boxes(objects, 2), torch.cat([anchors, anchors[:50]]))
    ours, theirs = (kind(0.7, 0.3, low_quality)(quality) for kind in (Matcher, _utils.Matcher))
    assert torch.equal(ours, theirs) and (ours >= 0).any() == (low_quality or bool((quality >= 0.7).any()))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("labels", [[1.0, 0.0, -1.0], [0.0], [1.0], [-1.0], [3, 0, -1]])
def test_sampler(labels: list[float], share: float) -> None:
    of = torch.tensor(labels)[torch.randint(len(labels), (90,), generator=torch.Generator().manual_seed(3))]
    torch.manual_seed(4)
    positive, negative = Sampler(32, share).draw(of)
    torch.manual_seed(4)
    masks = [mask[0].bool() for mask in _utils.BalancedPositiveNegativeSampler(32, share)([of])]
    assert torch.equal(positive, masks[0].nonzero()[:, 0]) and torch.equal(negative, masks[1].nonzero()[:, 0])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (0.1, 0.3, 7.0, 1.7)])
def test_coder(weights: tuple[float, float, float, float]) -> None:
    a, b = boxes(50, 5), boxes(50, 6)
    ours, theirs = BoxCoder(weights), _utils.BoxCoder(weights)
    codes = ours.encode_single(a, b)
    assert torch.equal(codes, theirs.encode_single(a, b))
    torch.testing.assert_close(ours.decode_single(codes, b), a, rtol=1e-4, atol=1e-3)
    several = torch.randn(50, 12, generator=torch.Generator().manual_seed(7)) * 3
    assert torch.equal(ours.decode_single(several, b), theirs.decode_single(several, b))
    for x, y in zip(ours.encode([a, b], [b, a]), theirs.encode([a, b], [b, a]), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(ours.decode(several, [b[:20], b[20:]]), theirs.decode(several, [b[:20], b[20:]]))
