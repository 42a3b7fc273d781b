"""Puts one fully connected layer on a trunk's pooled features, which is what a linear probe and fine-tuning train.

Shape shorthand:
    N: images of this process   C: length of a feature
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data.labelled import top_k_hits
from pretrain.data.views import Batch, TrainingBatches
from pretrain.probes.features import Features
from pretrain.probes.trunk import FreeTrunk
from pretrain.runtime.seed import derive


class Classifier(nn.Module):
    """A trunk and a linear classifier, called as `loop.train` calls a mechanism; frozen parameters get no gradient.

    Args:
        trunk: N x 3 x H x W -> N x C; a `FrozenTrunk` makes it a linear probe.
        num_classes: outputs of `fc`, whose weights start as N(0, 0.01) and whose biases start as 0.
        seed: seed of the weights of `fc`.
    """

    def __init__(self, trunk: FreeTrunk, num_classes: int, seed: int = 0):
        super().__init__()
        self.trunk, self.fc = trunk, nn.Linear(trunk.dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01, generator=torch.Generator().manual_seed(derive(seed, 0)))
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Tensor, labels: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Returns the logits (N/parts x classes) and the labels (N/parts) of a micro-batch.

        Args:
            inputs: images, N/parts x 3 x H x W, or their features, N/parts x C.
            labels: N: the labels of the whole step.
            part, parts: which micro-batch this is, of how many.
        """
        features = self.trunk(inputs) if inputs.ndim == 4 else inputs
        return self.fc(features), labels.chunk(parts)[part]

    def trained(self) -> list[nn.Parameter]:
        """Returns the parameters that the optimizer trains, in the order of a ResNet's parameters: `fc` last."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def resnet_state(self) -> dict[str, Tensor]:
        """Returns the state dict of the whole ResNet, as if `fc` had never been taken off the trunk."""
        return {**self.trunk.network.state_dict(), **self.fc.state_dict(prefix="fc.")}

    def load_resnet_state(self, state: dict[str, Tensor]) -> None:
        """Loads what `resnet_state` returned, all of it."""
        self.fc.load_state_dict({name: state[f"fc.{name}"] for name in self.fc.state_dict()})
        self.trunk.network.load_state_dict({name: state[name] for name in self.trunk.network.state_dict()})


def feature_batches(features: Features, batches: TrainingBatches) -> Iterator[Batch]:
    """Yields what a loader would give if the trunk were the identity: batches of features instead of views."""
    labels = torch.from_numpy(features.labels)
    for pairs in batches:
        numbers = [index for _, index in pairs]
        yield Batch((features.rows(numbers),), [], torch.tensor(numbers), labels[numbers])


@torch.no_grad()
def evaluate(fc: nn.Linear, features: Iterable[Tensor], labels: np.ndarray, device: torch.device) -> dict[str, float]:
    """Returns the scores of a classifier of features: {"acc1", "acc5" (percent), "loss" (mean cross-entropy)}.

    Args:
        features: features of the whole set in order, n x C at a time.
        labels: labels of the whole set.
    """
    sums, first = torch.zeros(3, dtype=torch.float64), 0
    for rows in features:
        logits = fc(rows.to(device))  # n x classes
        truth = torch.from_numpy(labels[first : first + len(rows)]).to(device)
        loss = F.cross_entropy(logits, truth, reduction="sum")
        sums += torch.cat([top_k_hits(logits, truth).sum(0), loss.unsqueeze(0)]).double().cpu()
        first += len(rows)
    assert first == len(labels)
    acc1, acc5, loss = (sums / len(labels)).tolist()
    return {"acc1": 100 * acc1, "acc5": 100 * acc5, "loss": loss}
