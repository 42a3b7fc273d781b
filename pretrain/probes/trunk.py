"""Reads a ResNet without its head from a checkpoint, free to be trained, or frozen and proven to have stayed unchanged.

Shape shorthand:
    N: images   C: channels of the last stage (512 for ResNet-18 and -34, 2048 for ResNet-50)   H, W: pixels
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pretrain.encoders import base_encoder
from pretrain.runtime import checkpoint, dist
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.config import ConfigError
from pretrain.runtime.errors import ExpectedError

HEAD = "fc."
PREFIXES = ("module.encoder_q.", "encoder_q.", "module.", "")  # MoCo; MoCo, not wrapped; linear probe; torchvision
_COUNTER = ".num_batches_tracked"  # absent from the oldest files, and without effect in eval mode

Trunk = Callable[[Tensor], Tensor]  # N x 3 x H x W, normalised RGB -> N x C, float32


class TrunkChangedError(ExpectedError, RuntimeError):
    """A trunk that was to stay frozen has other weights or BN statistics than before."""


class FreeTrunk(nn.Module):
    """A ResNet up to its global average pooling, trained like any other module.

    Args:
        network: a ResNet that ends in `fc`, which is removed.
        amp: precision of the trunk's arithmetic (autocast); None computes in that of its weights. Features are returned
            in the precision of the weights either way.

    Attributes:
        dim: C.
        sha256: `fingerprint` of the initial weights and statistics.
    """

    def __init__(self, network: nn.Module, amp: torch.dtype | None = None):
        super().__init__()
        fc = network.get_submodule("fc")
        assert isinstance(fc, nn.Linear)
        network.fc = nn.Identity()
        self.network, self.dim, self.amp = network, fc.in_features, amp
        self.sha256 = fingerprint(network)

    def forward(self, images: Tensor) -> Tensor:
        """Computes N x 3 x H x W, normalised RGB -> N x C, globally average-pooled."""
        with torch.autocast(images.device.type, dtype=self.amp, enabled=self.amp is not None):
            features = self.network(images)
        return features.to(next(self.network.parameters()).dtype)


class FrozenTrunk(FreeTrunk):
    """A trunk that stays in eval mode whatever is asked of it, and that has no gradients."""

    def __init__(self, network: nn.Module, amp: torch.dtype | None = None):
        super().__init__(network, amp)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Stays in eval mode, because BN in training mode moves its running statistics, which are part of the trunk."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)

    def verify(self) -> None:
        """Raises TrunkChangedError unless every weight and statistic is what it was at the start, bit for bit."""
        if (now := fingerprint(self.network)) != self.sha256:
            raise TrunkChangedError(
                f"the frozen trunk has changed (SHA-256 {self.sha256[:16]} -> {now[:16]}): its accuracy would not be "
                "that of the checkpoint; something trains it, or left its BN in training mode"
            )


def fingerprint(module: nn.Module) -> str:
    """Returns a hex SHA-256 over name, type, shape and value of every parameter and buffer, wherever they lie."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Keeps a module that is being trained in eval mode inside the block; afterwards everything is as it was.

    With several processes, each one has the first one's BN statistics inside the block, because a checkpoint saves
    those; every process must enter.
    """
    modes = {child: child.training for child in module.modules()}
    several = dist.world_size() > 1
    own = {buffer: buffer.clone() for buffer in module.buffers()} if several else {}
    module.eval()
    for buffer in own:
        dist.broadcast(buffer)
    try:
        yield
    finally:
        for buffer, value in own.items():
            buffer.copy_(value)
        for child, mode in modes.items():
            child.training = mode


@contextmanager
def pooled(encoder: nn.Module) -> Iterator[Trunk]:
    """Lends the trunk of an encoder that is being trained: inside, the encoder is `evaluating`, without its head."""
    head = encoder.get_submodule("fc")

    @torch.no_grad()
    def trunk(images: Tensor) -> Tensor:
        # not encoder(images): if that is compiled, it would be compiled once more, for these modes and shapes
        return encoder.forward(images).float()

    with evaluating(encoder):
        encoder.fc = nn.Identity()
        try:
            yield trunk
        finally:
            encoder.fc = head


def load_trunk(path: str | os.PathLike[str], arch: str = "", key: str = "MODEL.ARCH") -> tuple[nn.Module, str]:
    """Reads the trunk of a checkpoint; it must be complete.

    The file is one of ours or of the reference implementation (the query encoder is taken), a linear probe of either,
    or a torchvision ResNet's state dict. Heads and whatever else the file holds are left out.

    Args:
        arch: a key of `encoders.ARCHITECTURES`; "" takes what the file says.
        key: the config key or option that gives `arch`, for errors.

    Returns:
        The ResNet on the CPU, with a meaningless `fc`, and its architecture.

    Raises:
        CheckpointError: the file cannot be read, has no trunk, or does not have exactly the tensors of this
            architecture.
        ConfigError: the architecture is unknown, or none is given and the file does not say.
    """
    content = checkpoint.load(path)
    state, prefix = _find(content, path)
    said = content.get("arch")
    arch = arch or (said if isinstance(said, str) else "")
    if not arch:
        raise ConfigError(f"'{path}' does not say its architecture; give {key}, e.g. {key} resnet50")
    given = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    given = {name: value for name, value in given.items() if not name.startswith(HEAD)}
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
        network = base_encoder(arch, key=key)(num_classes=1)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith(HEAD)}
    if not any(name.endswith(_COUNTER) for name in given):
        given.update({name: value for name, value in own.items() if name.endswith(_COUNTER)})
    _check_complete(given, own, path, arch, key)
    network.load_state_dict(given, strict=False)  # strict but for the head: checked above
    return network, arch


def _find(content: object, path: str | os.PathLike[str]) -> tuple[Mapping[str, Tensor], str]:
    """Returns the state dict, and the prefix of the trunk's names in it."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if isinstance(state, Mapping):
        for prefix in PREFIXES:
            if prefix + "conv1.weight" in state:
                return state, prefix
    raise CheckpointError(
        f"'{path}' holds no trunk: none of {', '.join(prefix + 'conv1.weight' for prefix in PREFIXES)} is in it. "
        "Give a MoCo checkpoint, a linear probe, or the state dict of a torchvision ResNet"
    )


def _check_complete(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str | os.PathLike[str], arch: str, key: str
) -> None:
    if problems := checkpoint.misfits(given, own, arch):
        raise CheckpointError(
            f"the trunk in '{path}' is not a complete {arch} ({len(own)} tensors): {problems}. "
            f"Check {key}, or save the whole checkpoint again"
        )
