"""Augmentation: the papers' steps in the reference's order, and what they draw from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision import transforms as T

from pretrain.data.augment import MEAN, RECIPES, STD, GaussianBlur, TwoCrops, normalise, recipe
from pretrain.runtime.config import ConfigError


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))


def flat(name: str) -> list[object]:
    """The steps of a recipe, those inside RandomApply after it."""
    steps: list[object] = []
    for t in recipe(name).transforms:
        steps += [t, *t.transforms] if isinstance(t, T.RandomApply) else [t]
    return steps


def test_v1_order() -> None:
    steps = flat("v1")
    assert [type(t) for t in steps] == [
        *(T.RandomResizedCrop, T.RandomGrayscale, T.ColorJitter, T.RandomHorizontalFlip, T.PILToTensor)
    ]
    crop, gray, jitter, flip, _ = steps
    assert crop.size == (224, 224) and crop.scale == (0.2, 1.0) and gray.p == 0.2 and flip.p == 0.5
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4) and jitter.hue == (-0.4, 0.4)


def test_v2_order() -> None:
    steps = flat("v2")
    assert [type(t) for t in steps] == [
        *(T.RandomResizedCrop, T.RandomApply, T.ColorJitter, T.RandomGrayscale, T.RandomApply, GaussianBlur),
        *(T.RandomHorizontalFlip, T.PILToTensor),
    ]
    crop, maybe_jitter, jitter, gray, maybe_blur, blur = steps[:6]
    assert crop.scale == (0.2, 1.0) and maybe_jitter.p == 0.8 and gray.p == 0.2 and maybe_blur.p == 0.5
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4) and jitter.hue == (-0.1, 0.1)
    assert (blur.low, blur.high) == (0.1, 2.0)


def test_simclr_is_v2_with_the_colours_of_strength_1() -> None:
    ours, v2 = flat("simclr"), flat("v2")
    assert (
        [type(t) for t in ours] == [type(t) for t in v2] and ours[1].p == 0.8 and ours[3].p == 0.2 and ours[4].p == 0.5
    )
    jitter = ours[2]
    assert jitter.brightness == jitter.contrast == jitter.saturation == pytest.approx((0.2, 1.8))
    assert jitter.hue == (-0.2, 0.2)


def test_supervised_is_torchvisions_crop_and_flip() -> None:
    assert [type(t) for t in flat("supervised")] == [T.RandomResizedCrop, T.RandomHorizontalFlip, T.PILToTensor]


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="'v3'; it must be v1 or v2 or simclr or supervised"):
        recipe("v3")


def test_blur_is_pillows_with_sigma_as_radius(image: Image.Image) -> None:
    torch.manual_seed(3)
    sigma = torch.empty(()).uniform_(0.1, 2.0).item()
    torch.manual_seed(3)
    blurred = GaussianBlur()(image)
    assert np.array_equal(blurred, image.filter(ImageFilter.GaussianBlur(radius=sigma)))


@pytest.mark.parametrize("name", RECIPES)
def test_two_crops_differ_and_follow_their_seed_alone(name: str, image: Image.Image) -> None:
    views = TwoCrops(recipe(name, crop_size=32))
    state = torch.get_rng_state()
    (q, k), (q2, k2) = views(image, 0), views(image, 0)
    assert torch.equal(torch.get_rng_state(), state) and not torch.equal(views(image, 1)[0], q)
    assert q.shape == k.shape == (3, 32, 32) and q.dtype == torch.uint8
    assert torch.equal(q, q2) and torch.equal(k, k2) and not torch.equal(q, k)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
def test_normalise_is_torchvisions_bit_for_bit(
    given: torch.memory_format, memory_format: torch.memory_format, image: Image.Image
) -> None:
    assert MEAN == (0.485, 0.456, 0.406) and STD == (0.229, 0.224, 0.225)
    images = [image, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    reference = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])
    batch = torch.stack([T.PILToTensor()(i) for i in images]).contiguous(memory_format=given)
    before = batch.clone()
    x = normalise(batch, torch.device("cpu"), memory_format)
    assert torch.equal(x, torch.stack([reference(i) for i in images])) and torch.equal(batch, before)
    assert x.is_contiguous(memory_format=memory_format)
