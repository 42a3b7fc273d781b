"""What happens between iterations: metrics, checkpoints, bad images, a loss that is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from pretrain.data.augment import normalise
from pretrain.data.decode import BadImageError
from pretrain.data.views import Batch
from pretrain.encoders import base_encoder
from pretrain.loop import DivergedError, Plan, TrainState, train, train_step
from pretrain.moco import MoCo
from pretrain.runtime.log import MetricsWriter, read_metrics


class Toy(nn.Module):
    """Logits that depend on the views and one weight: (N, 1+2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, im_q: Tensor, im_k: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        return im_q.mean((1, 2, 3))[:, None] + self.weight, torch.zeros(len(im_q), dtype=torch.long)


def batches(count: int, value: float = 1.0, bad: tuple[str, ...] = ()) -> Iterator[Batch]:
    for _ in range(count):
        yield Batch((torch.full((4, 3, 2, 2), value), torch.zeros(4, 3, 2, 2)), list(bad), torch.arange(4))


class Distance(Toy):
    """A loss of its own, and no logits."""

    def forward(self, im_q: Tensor, im_k: Tensor, part: int = 0, parts: int = 1) -> Tensor:  # type: ignore[override]
        return (im_q.mean() - self.weight).square().sum()


def run(tmp_path: Path, source: Iterator[Batch], state: TrainState | None = None, **plan: float) -> list[int]:
    """Iterations at which checkpoints were written, for 2 epochs of 5 iterations."""
    model, saved = Toy(), []
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        train(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            source,
            state or TrainState(),
            Plan(batch_size=4, per_epoch=5, iterations=10, learning_rate=lambda i: 0.1 / (i // 5 + 1), **plan),  # type: ignore[arg-type]
            device=torch.device("cpu"),
            writer=writer,
            save=lambda s: saved.append(s.iteration),
        )
    return saved


def test_step_returns_loss_and_accuracy_before_the_step() -> None:
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    views = torch.ones(4, 3, 2, 2), torch.zeros(4, 3, 2, 2)
    loss, scalars = train_step(model, optimizer, *views)
    assert loss.item() == pytest.approx(math.log(3)) and scalars == {"acc1": 100}
    torch.testing.assert_close(model.weight.data, torch.tensor([2 / 3, -1 / 3, -1 / 3]))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bytes_and_normalised_views_train_alike(memory_format: torch.memory_format, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    views = [tuple(torch.randint(256, (4, 3, 8, 8), generator=generator).byte() for _ in "qk") for _ in range(4)]
    ends = []
    for given in (lambda x: x, lambda x: normalise(x, torch.device("cpu"))):
        torch.manual_seed(0)
        model = MoCo(base_encoder("resnet18"), dim=4, K=8).to(memory_format=memory_format)
        train(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True),
            [Batch(tuple(map(given, pair)), [], torch.arange(4)) for pair in views],
            TrainState(),
            Plan(batch_size=4, per_epoch=4, iterations=4, learning_rate=lambda i: 0.1),
            device=torch.device("cpu"),
            writer=None,
            save=lambda s: None,
            memory_format=memory_format,
        )
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_micro_batches_add_up_to_the_step_of_the_whole() -> None:
    views = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(6, 3, 2, 2)
    results = []
    for parts in (1, 3):
        model = Toy()
        loss, scalars = train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), *views, parts=parts)
        results.append((loss, scalars["acc1"], model.weight.data))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_fused_sgd_takes_the_plain_steps_bit_for_bit() -> None:
    ends = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        model = base_encoder("resnet18")(num_classes=8)
        options = {"fused": True} if fused else {"foreach": False}
        optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4, **options)
        for _ in range(4):
            for parameter in list(model.parameters())[:-1]:  # the last has no gradient, like the key encoder's
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        ends.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_scaler_leaves_out_a_step_that_overflows(fused: bool) -> None:
    model, scaler = Toy(), GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=fused)
    train_step(model, optimizer, torch.full((4, 3, 2, 2), math.inf), torch.zeros(4, 3, 2, 2), scaler=scaler)
    assert torch.equal(model.weight.data, torch.zeros(3)) and scaler.get_scale() == 2.0
    train_step(model, optimizer, torch.ones(4, 3, 2, 2), torch.zeros(4, 3, 2, 2), scaler=scaler)
    torch.testing.assert_close(model.weight.data, torch.tensor([2 / 3, -1 / 3, -1 / 3]))


def test_a_mechanism_without_logits_names_its_own_scalars(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, state = Distance(), TrainState()
    caplog.set_level("INFO")
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        train(
            *(model, torch.optim.SGD(model.parameters(), lr=1.0), batches(2), state),
            Plan(4, 2, 2, lambda i: 0.1, score=lambda loss: (loss, {"half": loss.detach() / 2}), log_period=1),
            device=torch.device("cpu"),
            writer=writer,
            save=lambda s: None,
        )
    losses = [3.0, 3 * 0.8**2]  # one step of 0.1 takes a fifth of the way from 0 to 1
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["loss"] for line in lines] == pytest.approx(losses) and "acc1" not in lines[0]
    assert [line["half"] for line in lines] == pytest.approx([x / 2 for x in losses])
    assert state.epoch.over_processes() == pytest.approx({"loss": sum(losses) / 2, "half": sum(losses) / 4})
    assert "epoch 1/1: loss 2.4600, half 1.2300, lr 0.1" in caplog.text


def test_epochs_end_once_and_before_their_checkpoint() -> None:
    model, seen = Toy(), []
    train(
        *(model, torch.optim.SGD(model.parameters(), lr=1.0), batches(12), TrainState()),
        Plan(batch_size=4, per_epoch=5, iterations=12, learning_rate=lambda i: 0.1, checkpoint_period=5),
        device=torch.device("cpu"),
        writer=None,
        save=lambda s: seen.append(f"saved {s.iteration}"),
        epoch_ended=lambda epochs: seen.append(f"epoch {epochs}"),
    )
    assert seen == ["epoch 1", "saved 5", "epoch 2", "saved 10", "saved 12"]  # the third was cut short


def test_lines_and_checkpoints_come_when_they_should(tmp_path: Path) -> None:
    saved = run(tmp_path, batches(10), log_period=3, checkpoint_period=4)
    assert saved == [4, 5, 8, 10]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [2, 4, 5, 8, 9]
    assert [line["lr"] for line in lines] == [0.1, 0.1, 0.05, 0.05, 0.05]
    assert all({"loss", "acc1", "epoch", "images_per_second", "skipped"} <= line.keys() for line in lines)


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    assert run(tmp_path, batches(10), log_period=2, checkpoint_seconds=1e-9) == [2, 4, 5, 6, 8, 10]


def test_nan_stops_before_a_checkpoint_is_written(tmp_path: Path) -> None:
    state = TrainState()
    with pytest.raises(DivergedError, match="the loss is nan after 2 iterations; lower SOLVER.BASE_LR"):
        run(tmp_path, batches(10, value=math.nan), state, checkpoint_period=2, log_period=100)
    assert state.iteration == 2


def test_replaced_images_are_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = TrainState()
    run(tmp_path, batches(10, bad=("cannot read image 'x.jpg' (cut short)",)), state)
    assert state.skipped == 10
    assert [r.getMessage() for r in caplog.records if "x.jpg" in r.getMessage()] == [
        "skipped: cannot read image 'x.jpg' (cut short)"
    ]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["skipped"] == 10


def test_unreadable_image_stops_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="'x.jpg'; remove it, or set DATA.ON_BAD_IMAGE skip"):
        run(tmp_path, iter([Batch(None, ["cannot read image 'x.jpg'"])]))
    with pytest.raises(BadImageError, match="'y.jpg'; 2 like it in a row"):
        run(tmp_path, iter([Batch(None, ["cannot read image 'x.jpg'", "cannot read image 'y.jpg'"])]))
