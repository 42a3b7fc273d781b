"""The fast recipes against torchvision's: equal draws, equal distributions, images within stated tolerances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from pretrain.data import fast_augment as fast
from pretrain.data.augment import RECIPES, recipe
from pretrain.data.draws import Draws
from pretrain.data.fast_augment import Drawn, FastRecipe
from pretrain.runtime.config import ConfigError


def photo(height: int = 180, width: int = 240, seed: int = 0) -> np.ndarray:
    """H x W x 3, with the spectrum of a photograph (amplitude 1/f), strong colours and full contrast."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    waves = np.exp(2j * np.pi * rng.random((4, *f.shape))) / np.maximum(f, 1)
    fields = np.fft.irfft2(waves, s=(height, width))
    image = np.moveaxis(fields[:1] + fields[1:], 0, -1)
    return np.clip(image / image.std() * 55 + rng.uniform(80, 150, 3), 0, 255).astype(np.uint8)


def difference(ours: Any, theirs: Any) -> tuple[float, int]:
    """(mean, largest) absolute difference, in levels of 255."""
    d = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
    return float(d.mean()), int(d.max())


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, np.ndarray], tuple[Drawn, torch.Tensor]]:
    """record(name, image) -> what torchvision's recipe draws for a view, and the view."""
    box: list[tuple[int, int, int, int]] = []
    steps: list[tuple[str, float]] = []
    flips: list[bool] = []

    def watch(module: Any, name: str, note: Callable[..., object]) -> None:
        original = getattr(module, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            note(*args[1:])
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    watch(TF, "resized_crop", lambda *a: box.append(a[:4]))
    for step in ("brightness", "contrast", "saturation", "hue"):
        watch(TF, f"adjust_{step}", lambda value, step=step: steps.append((step, value)))
    watch(TF, "rgb_to_grayscale", lambda **_: steps.append(("gray", 1.0)))
    watch(TF, "hflip", lambda: flips.append(True))
    watch(Image.Image, "filter", lambda kernel: steps.append(("blur", kernel.radius)))

    def run(name: str, image: np.ndarray) -> tuple[Drawn, torch.Tensor]:
        for seen in (box, steps, flips):
            seen.clear()
        view = recipe(name, crop_size=24)(Image.fromarray(image))
        return Drawn(box[0], tuple(steps), bool(flips)), view

    return run


@pytest.mark.parametrize("name", RECIPES)
def test_same_generator_same_draws(name: str, record: Callable[[str, np.ndarray], tuple[Drawn, torch.Tensor]]) -> None:
    image, ours = photo(40, 60), FastRecipe(name, crop_size=24)
    torch.manual_seed(0)
    theirs = [record(name, image)[0] for _ in range(200)]
    after = torch.rand(1)
    draws = Draws(0)
    assert [ours.draw(40, 60, draws) for _ in range(200)] == theirs
    assert draws.uniform() == after.item()
    seldom = {"v1": {"blur"}, "supervised": set(fast.STEPS)}
    assert {step for drawn in theirs for step, _ in drawn.steps} == set(fast.STEPS) - seldom.get(name, set())


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (0.95, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 50), (50, 2), (9, 12), (12, 9), (72, 72), (375, 500), (7, 40)])
def test_boxes_are_torchvisions_whatever_the_shape(height: int, width: int, scale: tuple[float, float]) -> None:
    image = torch.empty(()).expand(3, height, width)
    torch.manual_seed(1)
    theirs = [T.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(50)]
    after = torch.rand(1)
    draws = Draws(1)
    assert [fast.draw_box(height, width, scale, draws) for _ in range(50)] == theirs
    assert draws.uniform() == after.item()


def test_colour_matrices_against_their_closed_forms() -> None:
    image, grey = photo(20, 30), np.array([0.299, 0.587, 0.114])
    for factor in (0.2, 0.9, 1.0, 1.7):
        for ours, matrix in [
            (fast.brightness, factor * np.eye(3)),
            (fast.saturation, factor * np.eye(3) + (1 - factor) * np.tile(grey, (3, 1))),
        ]:
            exact = np.clip(np.floor(image @ matrix.T + 0.002), 0, 255)  # a fraction is dropped
            assert difference(ours(image, factor), exact)[1] <= 1


def test_draws_follow_the_papers() -> None:
    n, ours = 3000, FastRecipe("v2")
    draws = Draws(0)
    drawn = [ours.draw(375, 500, draws) for _ in range(n)]
    values = {name: np.array([v for d in drawn for step, v in d.steps if step == name]) for name in fast.STEPS}

    def share(count: int, p: float) -> bool:
        return abs(count / n - p) < 4 * np.sqrt(p * (1 - p) / n)

    assert share(len(values["hue"]), 0.8) and share(len(values["gray"]), 0.2) and share(len(values["blur"]), 0.5)
    assert share(sum(d.flip for d in drawn), 0.5)
    area = np.array([d.box[2] * d.box[3] for d in drawn]) / (375 * 500)
    aspect = np.array([d.box[3] / d.box[2] for d in drawn])
    assert 0.19 < area.min() < 0.21 and 0.95 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    bounds = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.6, 1.4), "hue": (-0.1, 0.1)}
    for name, (low, high) in {**bounds, "blur": (0.1, 2.0)}.items():
        uniform = (np.sort(values[name]) - low) / (high - low)  # Kolmogorov-Smirnov, 0.1%
        ranks = (np.arange(len(uniform)) + 0.5) / len(uniform)
        assert np.abs(uniform - ranks).max() < 1.95 / np.sqrt(len(uniform)), name
    first = [next(step for step, _ in d.steps) for d in drawn if len(d.steps) >= 4]
    assert all(abs(first.count(name) / len(first) - 0.25) < 0.04 for name in bounds)


@pytest.mark.parametrize(
    "box", [(0, 0, 180, 240), (10, 20, 150, 130), (3, 100, 60, 80), (0, 0, 112, 112), (5, 5, 1, 9)]
)
def test_crop_is_pillows(box: tuple[int, int, int, int]) -> None:
    image = photo()
    mean, largest = difference(fast.crop(image, box, 112), TF.resized_crop(Image.fromarray(image), *box, [112, 112]))
    assert mean < 0.3 and largest <= 1


@pytest.mark.parametrize("factor", [0.2, 0.6, 0.8, 1.0, 1.13, 1.4, 1.8])
def test_jitter_of_brightness_contrast_saturation_is_pillows(factor: float) -> None:
    image = photo(112, 112)
    for ours, theirs in (
        (fast.brightness, TF.adjust_brightness),
        (fast.contrast, TF.adjust_contrast),
        (fast.saturation, TF.adjust_saturation),
    ):
        mean, largest = difference(ours(image, factor), theirs(Image.fromarray(image), factor))
        assert mean < 0.25 and largest <= 1, ours


@pytest.mark.parametrize("turn", [-0.5, -0.4, -0.1, -0.003, 0.0, 0.05, 0.1, 0.4])
def test_hue_is_pillows_within_a_step(turn: float) -> None:
    image = photo(112, 112)
    mean, largest = difference(fast.hue(image, turn), TF.adjust_hue(Image.fromarray(image), turn))
    assert mean < 0.35 and largest <= 8  # a step of 256 changes a saturated colour by 6


def test_gray_is_pillows() -> None:
    image = photo(112, 112)
    mean, largest = difference(fast.gray(image), TF.to_grayscale(Image.fromarray(image), 3))
    assert mean < 0.01 and largest <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0])
def test_blur_is_pillows_of_three_boxes_nearly(sigma: float) -> None:
    image = photo(112, 112)
    theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    ours = fast.blur(image, sigma)
    mean, largest = difference(ours[8:-8, 8:-8], theirs[8:-8, 8:-8])
    assert mean < 1.5 and largest <= 8
    assert difference(ours, theirs)[1] <= 20  # Pillow repeats the border anew for every box


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0])
def test_blur_spreads_a_point_by_sigma(sigma: float) -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    weights = fast.blur(point, sigma)[..., 0].astype(float)
    offsets = np.arange(41) - 20
    assert np.sqrt((weights.sum(0) * offsets**2).sum() / weights.sum()) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("name", RECIPES)
def test_views_are_torchvisions_nearly(name: str) -> None:
    image, ours, theirs = photo(375, 500), FastRecipe(name), recipe(name)
    found = []
    for seed in range(25):
        torch.manual_seed(seed)
        want = theirs(Image.fromarray(image))
        view = ours.view(image, Draws(seed))
        assert view.shape == want.shape == (3, 224, 224) and view.dtype == want.dtype == torch.uint8
        found.append(difference(view, want))
    means, largest = zip(*found, strict=True)
    assert np.mean(means) < 0.6 and max(means) < 2 and max(largest) <= 40


def test_arrays_and_images_give_the_same_view_and_stay_as_they_are() -> None:
    image, view = photo(50, 60), FastRecipe("v2", crop_size=32)
    before = image.copy()
    with view.begin(5) as first, view.begin(5) as second:
        a, b = first(image), second(Image.fromarray(image))
        assert torch.equal(a, b) and np.array_equal(image, before)
        assert not torch.equal(first(image), a)


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="'v3'; it must be v1 or v2"):
        FastRecipe("v3")
