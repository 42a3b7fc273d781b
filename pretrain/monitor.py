"""Measures whether the representation collapses and whether the queue is healthy.

The functions are pure and use only what a training step has computed anyway. In a healthy run of MoCo `spread` is near
1 and never near 0; positive similarities are well above the negative ones and below 1; negative similarities are near
0; keys are at most K / B - 1 steps old and have length 1; and queries are no more similar to the other keys of their
batch than to the queue.

Shape shorthand:
    N: queries   C: length of a feature   K: keys in the queue   B: keys that enter at each step
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1  # the age of a key that no step of this run has written


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Measures how evenly embeddings are spread over the unit sphere (SimSiam, arXiv:2011.10566, section 4.1).

    It L2-normalises the embeddings, takes the standard deviation over N in each dimension, averages it over the C
    dimensions, and multiplies by sqrt(C). The squared deviations add up to at most 1, so that the largest value is 1.

    Args:
        embeddings: N x C, of any length.

    Returns:
        A scalar: 0 if all embeddings have collapsed to one point, 1 if they are spread evenly.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5


@torch.no_grad()
def similarities(logits: Tensor, labels: Tensor, T: float) -> tuple[Tensor, Tensor]:
    """Returns the mean similarity of the positives and the mean similarity of the negatives, as two scalars.

    Args:
        logits: N x (1 + negatives), similarities divided by the temperature T. The logits of NCE are shifted by a
            constant, so that only the difference of the two results has a meaning.
        labels: N, the column of each query's positive.
    """
    positives = logits.gather(1, labels.unsqueeze(1)).float()  # N x 1
    negatives = (logits.float().sum(dim=1, keepdim=True) - positives) / (logits.shape[1] - 1)  # N x 1
    return T * positives.mean(), T * negatives.mean()


@torch.no_grad()
def within_batch(queries: Tensor, keys: Tensor, positive: float) -> Tensor:
    """Returns the mean similarity of queries to the keys of the other images in their batch, as a scalar.

    Args:
        queries: n x C, L2-normalised.
        keys: N x C with N > 1, L2-normalised: all keys of the step, among them each query's own.
        positive: the mean similarity of the queries to their own keys.
    """
    count = len(keys)
    of_all = queries.float().mean(dim=0) @ keys.float().mean(dim=0)  # over n x N pairs
    return (count * of_all - positive) / (count - 1)


def key_ages(queue_ptr: int, K: int, B: int, iteration: int) -> Tensor:
    """Returns the age of each key in the queue, in steps.

    Keys enter the queue in blocks of B columns, at a pointer that returns to column 0 after the last one.

    Args:
        queue_ptr: the column at which the next block will start.
        iteration: the number of steps done.

    Returns:
        K int64: 0 for the keys of the latest step, `NEVER` for columns that none of these steps has written, which are
        random or come from the checkpoint that the run started from.

    Raises:
        ValueError: K is not a multiple of B, or the pointer is not in [0, K).
    """
    if K % B or not 0 <= queue_ptr < K:
        raise ValueError(f"a queue of K={K} keys, filled in blocks of {B}, cannot have its pointer at {queue_ptr}")
    ages = (queue_ptr - 1 - torch.arange(K)) % K // B
    return torch.where(ages < iteration, ages, NEVER)


@torch.no_grad()
def queue_health(queue: Tensor, queue_ptr: Tensor, B: int, iteration: int) -> dict[str, float]:
    """Computes the metrics of the queue's health.

    Args:
        queue: C x K, L2-normalised columns.
        queue_ptr: 1 element, the column at which the next block will start.
        B, iteration: see `key_ages`.

    Returns:
        queue/filled: the share of keys that this run has written, 0 to 1.
        queue/age_mean, queue/age_max: the mean and the largest age of those keys in steps, NaN if there are none.
        queue/spread: the `spread` of all keys.
        queue/norm_error: the largest deviation of a key's length from 1.

    Raises:
        ValueError: see `key_ages`.
    """
    ages = key_ages(int(queue_ptr), queue.shape[1], B, iteration)
    written = ages[ages != NEVER].double()
    return {
        "queue/filled": len(written) / len(ages),
        "queue/age_mean": written.mean().item(),
        "queue/age_max": written.max().item() if len(written) else float("nan"),
        "queue/spread": spread(queue.T).item(),
        "queue/norm_error": (queue.float().norm(dim=0) - 1).abs().max().item(),
    }


@torch.no_grad()
def health(logits: Tensor, labels: Tensor, T: float, embeddings: Tensor | None = None) -> dict[str, float]:
    """Computes the metrics of one training step's health; see `similarities` and `spread`.

    Args:
        logits, labels, T: see `similarities`.
        embeddings: N x C, the keys or queries of the step, or None.

    Returns:
        embedding/positive, embedding/negative: the mean similarities of positives and of negatives.
        embedding/spread: the `spread` of the embeddings, if they are given.
    """
    positive, negative = similarities(logits, labels, T)
    found = {"embedding/positive": positive.item(), "embedding/negative": negative.item()}
    if embeddings is not None:
        found["embedding/spread"] = spread(embeddings).item()
    return found


class Watch:
    """Reports the health of a mechanism during training, on request and without changing the training.

    It keeps the latest logits until the next step, which takes memory for N x (1 + negatives) numbers. In a run of
    several processes it reports on the queries of this process alone.

    Args:
        mechanism: `MoCo`, `EndToEnd` or `MemoryBank`, not wrapped in DistributedDataParallel.
        B: the number of images per step over all processes.
    """

    def __init__(self, mechanism: nn.Module, B: int):
        self.mechanism, self.B = mechanism, B
        self._latest: tuple[Tensor, Tensor] | None = None
        mechanism.register_forward_hook(self._keep)

    def _keep(self, mechanism: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        self._latest = output[0].detach(), output[1]

    @torch.no_grad()
    def __call__(self, iteration: int) -> dict[str, float]:
        """Returns the `health` of the latest step, and `queue_health` if the mechanism has a queue.

        For NCE, whose logits are shifted by a constant, it returns `embedding/gap`, the difference of the two mean
        similarities, instead of the similarities themselves.

        Args:
            iteration: the number of steps done.
        """
        assert self._latest is not None, "no step yet"
        queue, T = getattr(self.mechanism, "queue", None), float(self.mechanism.T)  # type: ignore[arg-type]
        if not isinstance(queue, Tensor):
            found = health(*self._latest, T)
            if getattr(self.mechanism, "nce", False):
                return {"embedding/gap": found["embedding/positive"] - found["embedding/negative"]}
            return found
        pointer = self.mechanism.get_buffer("queue_ptr")
        newest = (pointer - self.B + torch.arange(self.B, device=queue.device)) % queue.shape[1]
        found = health(*self._latest, T, queue[:, newest].T)
        queries, keys = self.mechanism.latest  # type: ignore[misc]
        if len(keys) > 1:
            found["embedding/within_batch"] = within_batch(queries, keys, found["embedding/positive"]).item()
        return found | queue_health(queue, pointer, self.B, iteration)
