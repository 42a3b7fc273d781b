"""Schedules against closed forms, groups against a listing by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from transfer.engines.tv.solver import clip_gradients, learning_rate, parameter_groups

PAPER = dict(
    schedule="WarmupMultiStepLR", base_lr=0.02, base_lr_end=0.0, max_iter=24000, steps=(18000, 22000), gamma=0.1,
    warmup_iters=100, warmup_factor=0.001, warmup_method="linear",
)  # fmt: skip


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 0.02e-3), (50, 0.5 * (0.02e-3 + 0.02)), (100, 0.02), (17999, 0.02), (18000, 0.002), (22000, 0.0002)],
)
def test_the_24k_schedule(iteration, rate):
    assert learning_rate(iteration, **PAPER) == pytest.approx(rate)


def test_cosine():
    for i in (100, 12000, 23999):
        expected = 0.02 * 0.5 * (1 + math.cos(math.pi * i / 24000))
        assert learning_rate(i, **{**PAPER, "schedule": "WarmupCosineLR"}) == pytest.approx(expected)


def test_norms_have_no_weight_decay_and_frozen_parameters_no_group():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    model[2].weight.requires_grad_(False)
    groups = parameter_groups(
        model, base_lr=0.1, weight_decay=1e-4, weight_decay_norm=0.0, weight_decay_bias=None, bias_lr_factor=1.0
    )
    found = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert found == {
        id(model[0].weight): 1e-4, id(model[0].bias): 1e-4, id(model[1].weight): 0.0, id(model[1].bias): 0.0,
        id(model[2].bias): 1e-4,
    }  # fmt: skip


def test_clipping():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.tensor([3.0, -4.0]), torch.tensor([0.3, 0.4])
    clip_gradients([a, b], "norm", 1.0, 2.0)
    assert torch.allclose(a.grad, torch.tensor([0.6, -0.8]), atol=1e-5) and torch.equal(
        b.grad, torch.tensor([0.3, 0.4])
    )
    clip_gradients([a], "value", 0.5, 2.0)
    assert torch.allclose(a.grad, torch.tensor([0.5, -0.5]))
