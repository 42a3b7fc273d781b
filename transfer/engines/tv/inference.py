"""Loads a whole network and yields what it predicts on test samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Samples

from pretrain.runtime import dist
from pretrain.runtime.log import progress
from pretrain.runtime.workers import check_workers, start_worker
from transfer.convert.read import read_weights
from transfer.engines.tv.adapters.adapter import Adapter
from transfer.engines.tv.weights import load_weights


def load_whole(model: nn.Module, path: str) -> None:
    """Loads a file of a whole network, as `resolve.detector_file` gives it."""
    load_weights(model, read_weights(path), path)


def predictions(
    model: nn.Module, samples: Samples[dict[str, Any]], adapter: Adapter, workers: int, what: str
) -> Iterator[Any]:
    """Yields the predictions of `model` on test samples, in order, as evaluators take them; its mode stays as it is."""
    check_workers(workers)
    loader = DataLoader(
        samples,
        batch_size=1,
        num_workers=workers,
        collate_fn=list,
        pin_memory=next(model.parameters()).is_cuda,
        generator=torch.Generator(),
        worker_init_fn=start_worker,
    )
    training = model.training
    model.eval()
    count = len(samples)  # type: ignore[arg-type]  # they have a length
    with progress(count, what, "img", disable=not dist.is_main()) as bar:
        for batch in loader:
            with torch.inference_mode():
                outputs = model(batch)
            for sample, output in zip(batch, outputs, strict=True):
                yield adapter.prediction(sample, output)
                bar.update()
    model.train(training)
