"""Makes the optimizers that SOLVER.OPTIMIZER names: torch's SGD with a fault corrected, and LARS, which torch lacks.

LARS is SGD whose rate is scaled layer by layer (arXiv:1708.03888), in the form that SimCLR trains with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

TRUST = 0.001  # of the layer's norm that a step of rate 1 may move


class LARS(torch.optim.Optimizer):
    """SGD whose learning rate is scaled per parameter, for w with gradient g, rate r, weight decay b and momentum m:

        g <- g + b w;  v <- m v + r (TRUST |w| / |g|) g;  w <- w - v

    The factor in brackets is 1 where |w| or |g| is 0. Vectors (biases, and weights of normalisation) are excluded from
    decay and factor, as in arXiv:2002.05709. The rate stands inside the velocity, so that a change of rate acts at once
    on new gradients only.

    Args:
        parameters: the parameters in the order of the state dict; those without a gradient stay as they are.
        lr: r.
        momentum: m.
        weight_decay: b.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes one step with the present gradients. Nothing is copied from the device to the host."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p, update in zip(parameters, _updates(parameters, group["weight_decay"]), strict=True):
                velocity = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                velocity.mul_(group["momentum"]).add_(update, alpha=group["lr"])
                p.sub_(velocity)


def _updates(parameters: list[nn.Parameter], decay: float) -> list[Tensor]:
    """Returns what takes the gradients' place: decayed and scaled gradients, but those of vectors unchanged."""
    updates: list[Tensor] = []
    for p in parameters:
        g = p.grad
        assert g is not None
        if p.ndim > 1:
            g = g.add(p, alpha=decay)
            weight, gradient = p.norm(), g.norm()
            factor = torch.where((weight > 0) & (gradient > 0), TRUST * weight / gradient, 1.0)
            g = g * factor
        updates.append(g)
    return updates


class SGD(torch.optim.SGD):
    """torch's SGD in its fused form: one pass over the weights, and a loss scaler's decision stays on the device.

    torch leaves the momentum uninitialised when the scaler skips the very first step, as it does whenever the first
    scale is too large, and goes on from whatever was in memory. Here it is zero from the start.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=True)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes one step with the present gradients, or none if a loss scaler found one that is not finite."""
        assert closure is None
        for group in self.param_groups:
            for p in group["params"] if group["momentum"] else []:
                if p.grad is not None and "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        super().step()


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": SGD, "lars": LARS}
