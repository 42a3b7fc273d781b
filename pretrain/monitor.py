"""Is the representation collapsing, is the queue healthy? Pure functions of what a training step has at hand anyway.

What to expect of MoCo: `spread` near 1 and never near 0; positives well above negatives and below 1; negatives near 0;
keys no older than K / B - 1 steps, all of length 1; similarity within the batch no larger than to the queue.

Shape shorthand:
    N: queries   C: length of a feature   K: keys in the queue   B: keys that enter at each step
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1  # age of a key that no step has written


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """How far embeddings fill the sphere: N x C, any length -> scalar; 0 collapsed to a point, 1 spread evenly.

    It is the standard deviation over N of each dimension of the L2-normalised embeddings, averaged over dimensions,
    times sqrt(C): on the unit sphere the squares of the deviations add up to at most 1, in C equal parts if evenly
    spread (the measure of arXiv:2011.10566, section 4.1).
    """
    unit = F.normalize(embeddings.float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5


@torch.no_grad()
def similarities(logits: Tensor, labels: Tensor, T: float) -> tuple[Tensor, Tensor]:
    """Mean similarity of positives and of negatives, out of a mechanism's logits: two scalars.

    Args:
        logits: N x (1 + negatives), similarities divided by T. For those of NCE, which are shifted by a constant, only
            the difference of the two scalars means something.
        labels: N, column of the positive.
    """
    positives = logits.gather(1, labels.unsqueeze(1)).float()  # N x 1
    negatives = (logits.float().sum(dim=1, keepdim=True) - positives) / (logits.shape[1] - 1)  # N x 1
    return T * positives.mean(), T * negatives.mean()


@torch.no_grad()
def within_batch(queries: Tensor, keys: Tensor, positive: float) -> Tensor:
    """Mean similarity of queries to the keys of other images of their step: a scalar.

    Args:
        queries: n x C, of length 1.
        keys: N x C, N > 1, of length 1: those of the step; each query's own is among them.
        positive: mean similarity of the queries to their own keys.
    """
    count = len(keys)
    of_all = queries.float().mean(dim=0) @ keys.float().mean(dim=0)  # over n x N pairs
    return (count * of_all - positive) / (count - 1)


def key_ages(queue_ptr: int, K: int, B: int, iteration: int) -> Tensor:
    """Age of each key of a queue in steps: K int64; 0 for those of the latest step.

    Keys enter in blocks of B at a pointer that goes round. `NEVER` for columns that none of these steps has written:
    random ones, or those of the checkpoint that a run started from.

    Args:
        queue_ptr: column that the next block will start at.
        iteration: steps done.

    Raises:
        ValueError: K is not a multiple of B, or the pointer is no column.
    """
    if K % B or not 0 <= queue_ptr < K:
        raise ValueError(f"a queue of K={K} keys, filled in blocks of {B}, cannot have its pointer at {queue_ptr}")
    ages = (queue_ptr - 1 - torch.arange(K)) % K // B
    return torch.where(ages < iteration, ages, NEVER)


@torch.no_grad()
def queue_health(queue: Tensor, queue_ptr: Tensor, B: int, iteration: int) -> dict[str, float]:
    """What a queue can be judged by.

    Args:
        queue: C x K, columns of length 1.
        queue_ptr: 1 element.
        B, iteration: see `key_ages`.

    Returns:
        queue/filled: share of the keys that this run has written, 0 to 1.
        queue/age_mean, queue/age_max: of those, in steps (NaN if there are none).
        queue/spread: see `spread`.
        queue/norm_error: largest deviation of a key's length from 1.

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
    """What a step can be judged by; see `similarities` and `spread`.

    Args:
        embeddings: keys or queries of the step, N x C.

    Returns:
        embedding/positive, embedding/negative: mean similarities.
        embedding/spread: if there are embeddings.
    """
    positive, negative = similarities(logits, labels, T)
    found = {"embedding/positive": positive.item(), "embedding/negative": negative.item()}
    if embeddings is not None:
        found["embedding/spread"] = spread(embeddings).item()
    return found


class Watch:
    """Health of a mechanism that is being trained, whenever it is asked for; the training does not change by it.

    It holds on to the latest logits until the next step, which is memory for N x (1 + negatives) numbers. In several
    processes it speaks of this process's queries.

    Args:
        mechanism: `MoCo`, `EndToEnd` or `MemoryBank`, not wrapped in DistributedDataParallel.
        B: images per step, over all processes.
    """

    def __init__(self, mechanism: nn.Module, B: int):
        self.mechanism, self.B = mechanism, B
        self._latest: tuple[Tensor, Tensor] | None = None
        mechanism.register_forward_hook(self._keep)

    def _keep(self, mechanism: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        self._latest = output[0].detach(), output[1]

    @torch.no_grad()
    def __call__(self, iteration: int) -> dict[str, float]:
        """Of the step before: `health`, with a queue `queue_health` too. For NCE, whose logits are shifted, the
        difference `embedding/gap` instead of the two similarities.

        Args:
            iteration: steps done.
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
