"""Views finished by the batch: Pillow's pixels, the other backends' draws, whatever the images of a batch are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import functional as TF

from pretrain.data import device_augment as device
from pretrain.data import fast_augment as fast
from pretrain.data.augment import RECIPES, OneCrop, TwoCrops, recipe
from pretrain.data.device_augment import CropRecipe, finish, finished
from pretrain.data.fast_augment import FastRecipe
from pretrain.data.views import Batch
from tests.pretrain.data.test_fast_augment import difference, photo
from tests.virtual_gpu import virtual_gpu

CPU = torch.device("cpu")


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def hard() -> list[np.ndarray]:
    """A photograph; noise; every grey and pure colour; few levels, where highest and lowest channel often tie."""
    rng = np.random.default_rng(0)
    greys = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    colours = np.stack(np.meshgrid([0, 1, 127, 254, 255], [0, 128, 255], [0, 64, 255]), -1).reshape(5, 9, 3)
    ties = rng.integers(0, 3, (40, 30, 3)) * 100
    images = [photo(64, 80), rng.integers(0, 256, (50, 70, 3)), greys, colours, ties]
    return [image.astype(np.uint8) for image in images]


FACTORS = (0.2, 0.6, 1.0, 1.13, 1.4, 1.8)
PILLOW: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "brightness": (TF.adjust_brightness, FACTORS),
    "contrast": (TF.adjust_contrast, FACTORS),
    "saturation": (TF.adjust_saturation, FACTORS),
    "hue": (TF.adjust_hue, (-0.5, -0.4, -0.1, -0.003, 0.0, 0.05, 0.1, 0.4, 0.5)),
    "gray": (lambda image, _: TF.to_grayscale(image, 3), (1.0,)),
    "blur": (
        lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
        (0.1, 0.11, 0.3, 0.5, 0.7, 1.0, 1.5, 1.99, 2.0),
    ),
}


@pytest.mark.parametrize("name", fast.STEPS)
def test_each_step_is_pillows_to_the_last_level(name: str, hard: list[np.ndarray]) -> None:
    theirs, values = PILLOW[name]
    values = tuple(float(np.float32(value)) for value in values)  # as drawn
    for image in hard:
        batch = tensor(image).expand(len(values), -1, -1, -1)
        found = device.STEPS[int(device.KINDS[name])](batch, torch.tensor(values).view(-1, 1, 1, 1))
        want = torch.stack([tensor(np.asarray(theirs(Image.fromarray(image), value))) for value in values])
        torch.testing.assert_close(found, want, rtol=0, atol=0)


def test_a_mean_between_two_levels_is_rounded_up_as_pillows() -> None:
    """Half of the pixels 100, half 101: 100.5 and a half is 101, whichever way a device divides."""
    image = np.full((6, 7, 3), 100, np.uint8)
    image[:3] = 101
    want = tensor(np.asarray(TF.adjust_contrast(Image.fromarray(image), 0.5)))
    found = device.contrast(tensor(image)[None], torch.tensor([0.5]).view(1, 1, 1, 1))[0]
    torch.testing.assert_close(found, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    """Each by its own draws: crops as `fast_augment` makes them, and the rest by Pillow."""
    image, ours, other = photo(90, 120), CropRecipe(name, crop_size=24), FastRecipe(name, crop_size=24)
    crops, want = [], []
    for seed in range(40):
        with ours.begin(seed) as view, other.begin(seed) as same:
            del same
            crops.append(view(image))
        drawn = other.draw(90, 120, fast.Draws(seed))
        pil = Image.fromarray(fast.crop(image, drawn.box, 24))
        for step, value in drawn.steps:
            pil = PILLOW[step][0](pil, value)
        want.append(tensor(np.asarray(TF.hflip(pil) if drawn.flip else pil)))
    torch.testing.assert_close(finish(default_collate(crops), CPU), torch.stack(want), rtol=0, atol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_views_are_torchvisions_but_for_the_crop(name: str) -> None:
    image, ours, theirs = photo(375, 500), CropRecipe(name), recipe(name)
    found = []
    for seed in range(15):
        torch.manual_seed(seed)
        want = theirs(Image.fromarray(image))
        with ours.begin(seed) as view:
            (got,) = finish(default_collate([view(image)]), CPU)
        found.append(difference(got, want)[0])
    assert np.mean(found) < 0.03 and max(found) < 0.3  # as far as the crop is


def test_batches_keep_all_but_their_views() -> None:
    image, make = photo(40, 60), CropRecipe("v2", crop_size=16)
    views = tuple(default_collate([TwoCrops(make)(image, seed) for seed in range(3)]))
    numbers, labels = torch.arange(3), torch.tensor([2, 0, 1])

    def batches() -> Iterator[Batch]:
        yield Batch(views, ["skipped"], numbers, labels)
        yield Batch(None, ["gone"])

    first, second = finished(batches(), CPU)
    assert first.views is not None and [v.shape for v in first.views] == [(3, 3, 16, 16)] * 2
    assert torch.equal(first.views[1], finish(views[1], CPU)) and not torch.equal(*first.views)
    assert first.bad == ["skipped"] and first.numbers is numbers and first.labels is labels
    assert second == Batch(None, ["gone"])


def test_supervised_has_a_flip_and_no_steps() -> None:
    image, make = photo(40, 60), OneCrop(CropRecipe("supervised", crop_size=16))
    (view,) = default_collate([make(image, seed) for seed in range(8)])
    found = finish(view, CPU)
    for crop, flip, seen in zip(view.pixels, view.flip, found, strict=True):
        assert torch.equal(seen, crop.flip(2) if flip else crop)
    assert 0 < view.flip.sum() < 8


@pytest.mark.parametrize("name", RECIPES)
def test_the_host_waits_for_nothing(name: str) -> None:
    image, make = photo(40, 60), TwoCrops(CropRecipe(name, crop_size=16))
    view, _ = default_collate([make(image, seed) for seed in range(16)])
    want = finish(view, CPU)
    with virtual_gpu() as gpu:
        found = finish(view, torch.device("cuda", 0))
        assert found.is_cuda
        assert not gpu.waits, gpu.places
        got = found.cpu()
    assert torch.equal(got, want)
