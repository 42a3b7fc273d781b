"""Implements shuffling BN: a query and its key never share batch statistics (arXiv:1911.05722, section 3.3).

BN leaks which images were encoded together, and the pretext task can be solved by that leak alone. Two parts prevent
it: the batch is normalised in groups (one per process, or several virtual ones per process: `GroupBatchNorm2d`), and
the key encoder sees the images of the whole mini-batch in random order (`shuffle`), so that groups of keys and groups
of queries are different subsets. Permuting images inside one group would change nothing.

Shape shorthand:
    N: images of this process      B: images of all processes, in rank order
    G: BN groups of this process   C, H, W: channels, height, width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.runtime.dist import all_gather, broadcast, rank, world_size


class GroupBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that computes its training statistics separately in each of `num_groups` parts of the batch.

    Image i belongs to group i mod G: then (N, C, H, W) seen as (N/G, G*C, H, W) has one channel per channel and group,
    and plain batch normalisation of that view is what G processes with N/G images each would do. The view is not a
    copy, unless the input is channels_last; then the output is channels_last, too. Running statistics take the mean
    over groups. State-dict names and evaluation are those of BatchNorm2d.

    Args:
        num_features: C.
        num_groups: G; 1 is plain BatchNorm2d.
    """

    def __init__(self, num_features: int, num_groups: int):
        super().__init__(num_features)
        self.num_groups = num_groups

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W) -> (N, C, H, W). Raises ValueError if N is not a multiple of G."""
        G = self.num_groups
        if G == 1 or not self.training:
            return super().forward(x)
        N, C, H, W = x.shape
        if N % G:
            raise ValueError(f"a batch of {N} images cannot be split into {G} BN groups; take a multiple of {G}")
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var = self.running_mean.repeat(G), self.running_var.repeat(G)  # G*C
        y = F.batch_norm(
            x.reshape(N // G, G * C, H, W),
            mean,
            var,
            self.weight.repeat(G),
            self.bias.repeat(G),
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )
        with torch.no_grad():
            self.running_mean.copy_(mean.view(G, C).mean(0))
            self.running_var.copy_(var.view(G, C).mean(0))
            self.num_batches_tracked.add_(1)
        y = y.view(N, C, H, W)
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return y.contiguous(memory_format=torch.channels_last) if channels_last else y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_groups={self.num_groups}"


@torch.no_grad()
def shuffle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Deals the images of the whole mini-batch to the processes in random order, without a gradient.

    The order is drawn from torch's CPU generator on rank 0 and sent to the others.

    Args:
        x: (N, ...), the same N in every process.

    Returns:
        This process's share (N, ...), and the order (B,), which `unshuffle` needs to undo it.
    """
    everything = all_gather(x)  # (B, ...)
    order = torch.randperm(len(everything), pin_memory=x.is_cuda)  # pinned: the host need not wait for the copy
    order = broadcast(order.to(x.device, non_blocking=True))  # (B,)
    return everything[_share(order)], order


@torch.no_grad()
def unshuffle(x: Tensor, order: Tensor) -> Tensor:
    """Moves rows back to the process and place that their images had before `shuffle`: (N, ...) -> (N, ...)."""
    return all_gather(x)[_share(order.argsort())]


def _share(order: Tensor) -> Tensor:
    """Returns this process's part (N,) of an order (B,)."""
    return order.view(world_size(), -1)[rank()]
