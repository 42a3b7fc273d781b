"""Asks the commands of this half, before they are run, whether they could start; for tools that plan runs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from pretrain import config
from pretrain.build import mechanism
from pretrain.data.labelled import find_pair
from pretrain.encoders import base_encoder
from pretrain.probes import config as probes
from pretrain.runtime.config import load

Reader = Callable[[Path | None, Sequence[str], int, bool], Mapping[str, Tensor]]
_None: Mapping[str, Tensor] = MappingProxyType({})


def pretraining(file: Path | None, opts: Sequence[str], processes: int, look: bool) -> Mapping[str, Tensor]:
    """Reads a pre-training's config as tools/train_moco.py does.

    Args:
        opts: `KEY VALUE ...` that change it.
        processes: number of training processes; the batch is divided among them.
        look: also find the images, which takes minutes for a large set.

    Returns:
        The tensors of the encoder by torchvision's names, without values (on the meta device).

    Raises:
        ConfigError: the pre-training would refuse its config or its images.
    """
    assert file is not None
    cfg = load(config.get_cfg(), file, opts)
    config.check(cfg, processes)
    if look:
        mechanism(cfg).images(cfg)
    with torch.device("meta"):
        return base_encoder(cfg.MODEL.ARCH)(num_classes=1).state_dict()


def _classifier(trunk: str) -> Reader:
    """Returns a function that does the same for tools/linear_eval.py and tools/finetune.py; it returns no tensors."""

    def read(file: Path | None, opts: Sequence[str], processes: int, look: bool) -> Mapping[str, Tensor]:
        assert file is not None
        cfg = probes.load_lincls(file, opts, trunk)
        probes.check(cfg, processes)
        if look:
            find_pair(cfg.DATA.TRAIN, cfg.DATA.VAL)
        return _None

    return read


def _knn(file: Path | None, opts: Sequence[str], processes: int, look: bool) -> Mapping[str, Tensor]:
    """Does the same for tools/knn_eval.py, which has options instead of a config."""
    given = dict(zip(opts[::2], opts[1::2], strict=False))
    if look:
        find_pair(given["--train"], given["--val"], ("--train", "--val"))
    return _None


READERS: Mapping[str, Reader] = MappingProxyType(
    {"pretrain": pretraining, "linear": _classifier("frozen"), "finetune": _classifier("free"), "knn": _knn}
)
"""Kind of run (a pre-training, or a probe by its protocol) -> the function that asks."""
