"""The plateau's warning: once, when it lasts, never for healthy runs; and the key encoder that stays at its start."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config import get_cfg
from pretrain.encoders import base_encoder
from pretrain.mechanisms import MECHANISMS
from pretrain.moco import MoCo
from pretrain.plateau import PlateauWatch, batch_share, one_digit
from pretrain.run import main
from pretrain.runtime.config import merge_file
from tests.conftest import ROOT
from tests.pretrain.conftest import MakeCfg

PLATEAU = {"embedding/positive": 0.54, "embedding/negative": 0.23, "embedding/within_batch": 0.54, "queue/filled": 1.0}


class Script:
    """A `Watch` that says what it is told."""

    def __init__(self, found: list[dict[str, float]]):
        self.found = iter(found)

    def __call__(self, iteration: int) -> dict[str, float]:
        return next(self.found)


def warnings_of(
    found: list[dict[str, float]], caplog: pytest.LogCaptureFixture, every: int = 20, **how: float
) -> list[str]:
    """What is said while these are measured, one every so many iterations, from iteration `every` on."""
    caplog.clear()
    with torch.random.fork_rng():
        model = MoCo(base_encoder("resnet18"), dim=8, K=int(how.get("K", 1024)), m=how.get("m", 0.99), T=0.1)
    watch = PlateauWatch(model, int(how.get("B", 32)))
    watch.watch = Script(found)  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        for i in range(len(found)):
            assert watch(every * (i + 1)) is found[i]
    return [record.getMessage() for record in caplog.records]


def test_one_warning_after_a_hundred_steps(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of([PLATEAU] * 5, caplog) == []
    (said,) = warnings_of([PLATEAU] * 12, caplog)
    assert said == (
        "after 120 iterations: what tells a query's key (0.54 similar to it) from the queue (0.23) is mostly its batch "
        "(0.54 to keys of other images): the encoder marks when a key was made (with few BN groups: who was in its "
        "batch), and acc1 says little. (1 - MODEL.M) x MODEL.K / SOLVER.BATCH_SIZE = (1 - 0.99) x 1024 / 32 is "
        "0.32; at most 0.1 helped small runs: MODEL.M 0.997, or MODEL.K 320, or a larger batch"
    )
    (said,) = warnings_of([PLATEAU] * 12, caplog, B=128)
    assert said.endswith("is 0.08; if it lasts, lower SOLVER.BASE_LR or MODEL.K, or take more BN groups")
    assert warnings_of([PLATEAU] * 25, caplog, K=8192) == []  # 512 steps to fill the queue twice
    (said,) = warnings_of([PLATEAU] * 27, caplog, K=8192, m=0.9)
    assert "MODEL.M 0.9997, or MODEL.K 32, or a larger batch" in said
    (said,) = warnings_of([PLATEAU] * 12, caplog, m=0.0)
    assert said.endswith("MODEL.M 0.997, or a larger batch")  # no queue is short enough
    assert len(warnings_of([PLATEAU] * 3, caplog, every=1000)) == 1


HEALTHY = [
    {"embedding/within_batch": 0.23},  # of one batch, and no nearer
    {"embedding/within_batch": 0.38},  # a little less than half
    {"embedding/negative": 0.45},  # similar to everything: another trouble, which embedding/spread shows
    {"embedding/negative": 0.60},
    {"queue/filled": 0.9},  # against the random columns of the start everything is dissimilar
]


@pytest.mark.parametrize("change", HEALTHY)
def test_what_is_no_plateau(change: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of([PLATEAU | change] * 60, caplog) == []
    left = [PLATEAU] * 5 + [PLATEAU | change]
    assert warnings_of(left * 10, caplog) == []  # it has to last
    assert len(warnings_of(left + [PLATEAU] * 6, caplog)) == 1


def test_share_is_of_the_difference() -> None:
    for share in (-0.2, 0.0, 0.5, 1.0):
        found = PLATEAU | {"embedding/within_batch": 0.23 + share * 0.31}
        assert batch_share(found) == pytest.approx(share)


def test_a_step_of_one_image_has_no_other() -> None:
    one = MoCo(base_encoder("resnet18"), dim=8, K=4).eval()  # in training, BN would refuse one image
    watch = PlateauWatch(one, B=1)
    image = torch.randn(1, 3, 32, 32)
    for iteration in range(1, 300):
        if iteration < 6:
            one(image, image)
        assert "embedding/within_batch" not in watch(iteration)


def test_one_digit_never_goes_the_wrong_way() -> None:
    for value in np.random.default_rng(0).uniform(-6, 0, 300):
        x = 10**value
        low, high = one_digit(x, math.floor), one_digit(x, math.ceil)
        assert low <= x * (1 + 1e-8) and high >= x * (1 - 1e-8) and high - low < 1.01 * 10 ** math.floor(value)
    assert [one_digit(x, math.floor) for x in (0.1, 0.02, 3e-4)] == [0.1, 0.02, pytest.approx(3e-4)]


def cautions(m: float, iterations: int) -> list[str]:
    cfg = get_cfg()
    cfg.MODEL.M = m
    return MECHANISMS["moco"].cautions(cfg, iterations)


def test_a_key_encoder_that_stays_at_its_start() -> None:
    assert cautions(0.999, 750) == [
        "the key encoder ends with 47% of its first weights (MODEL.M 0.999 to the power of 750 iterations), so that "
        "its keys are nearly those of its start; set MODEL.M 0.996 or less, or train longer"
    ]
    assert 0.996**750 <= 0.1
    for iterations in (2, 20, 400, 20_000, 10**6):
        (said,) = cautions(1.0, iterations)
        advised = float(said.split("set MODEL.M ")[1].split()[0])
        assert "100% of its first weights" in said and advised**iterations <= 0.1 and not cautions(advised, iterations)
    assert cautions(1.0, 1)[0].endswith("; set MODEL.M 0.1 or less, or train longer")
    assert not cautions(0.0, 1) and not cautions(0.99, 400)


def test_the_weights_are_left_as_the_power_says() -> None:
    torch.manual_seed(0)
    model = MoCo(base_encoder("resnet18"), dim=8, K=8, m=0.9)
    for parameter in model.encoder_q.parameters():
        parameter.data.zero_()
    first = model.encoder_k.conv1.weight.clone()
    for _ in range(30):
        model._update_key_encoder()
    torch.testing.assert_close(model.encoder_k.conv1.weight, first * 0.9**30)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "pretrain").glob("*_R_50_*ep*.yaml")), ids=lambda path: path.stem
)
def test_the_papers_recipes_are_not_warned_of(path: Path) -> None:
    cfg = get_cfg()
    merge_file(cfg, path)
    iterations = 1_281_167 // cfg.SOLVER.BATCH_SIZE * cfg.SOLVER.EPOCHS
    assert MECHANISMS[cfg.MODEL.MECHANISM].cautions(cfg, iterations) == []


def test_a_run_says_it(images: Path, tmp_path: Path, make_cfg: MakeCfg, caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_cfg(images, tmp_path / "run", "MODEL.M", 0.999, "SOLVER.EPOCHS", 1)
    with caplog.at_level(logging.WARNING, logger="pretrain.run"):
        result = main(cfg)
    said = [record.getMessage() for record in caplog.records if record.name == "pretrain.run"]
    assert len(said) == 1 and said[0].startswith("the key encoder ends with 99% of its first weights")
    assert said[0] in result.notes
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"embedding/within_batch": ' in lines


def test_a_rate_that_never_falls_is_said(
    images: Path, tmp_path: Path, make_cfg: MakeCfg, caplog: pytest.LogCaptureFixture
) -> None:
    opts = ("MODEL.M", 0.9, "SOLVER.EPOCHS", 1, "SOLVER.STEPS", (60, 80))
    result = main(make_cfg(images, tmp_path / "steps", *opts, "SOLVER.SCHEDULE", "step"))
    (said,) = (line for line in caplog.messages if "no step of SOLVER.STEPS (60, 80) is reached in 1 epochs" in line)
    assert said in result.notes
    assert said not in main(make_cfg(images, tmp_path / "cosine", *opts, "SOLVER.SCHEDULE", "cosine")).notes
