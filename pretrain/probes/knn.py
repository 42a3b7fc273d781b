"""Classifies features by their weighted k nearest neighbours: an evaluation without training, quick enough for a run.

The vote is that of arXiv:1805.01978 (section 3.4): each of the k training images most similar to a query, by cosine
similarity s, votes for its class with weight exp(s / T).

Shape shorthand:
    Q: queries   N: rows of the bank (training images)   C: length of a feature   k: neighbours
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data.labelled import LabelledImages, central_view, find_pair, top_k_hits
from pretrain.probes.features import Features, View, extract
from pretrain.probes.trunk import FrozenTrunk, fingerprint, load_trunk, pooled
from pretrain.probes.view_size import shown_share, view_size
from pretrain.runtime import dist
from pretrain.runtime.alone import alone_in
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import progress
from pretrain.runtime.provenance import digest, environment, file_sha256
from pretrain.runtime.result import RunResult, named_inputs
from pretrain.session import session

LOG = logging.getLogger(__name__)

Rows = Callable[[slice], Tensor]  # some rows of a matrix that need not be in memory


@torch.no_grad()
def nearest(
    queries: Rows,
    num_queries: int,
    bank: Rows,
    num_bank: int,
    k: int,
    *,
    device: torch.device,
    query_chunk: int = 1024,
    bank_chunk: int = 32768,
    show: bool = False,
) -> tuple[Tensor, Tensor]:
    """Finds the k rows of the bank that are most similar to each query, exactly.

    Both sides are read in chunks, the bank once: memory holds a chunk of each, their query_chunk x bank_chunk
    similarities, and the result.

    Args:
        queries, bank: slice -> n x C, not necessarily normalised.
        device: where similarities are computed.
        show: whether to show a progress bar.

    Returns:
        Cosine similarities (Q x k, in [-1, 1], largest first) and rows (Q x k), on the CPU.

    Raises:
        ConfigError: k is not between 1 and N.
    """
    _check_k(k, num_bank)
    similarities, rows = torch.full((num_queries, k), -torch.inf), torch.zeros((num_queries, k), dtype=torch.long)
    with progress(num_bank, "kNN", unit="img", disable=not show) as bar:
        for begin in range(0, num_bank, bank_chunk):
            part = F.normalize(bank(slice(begin, begin + bank_chunk)).to(device), dim=1)  # n x C
            for first in range(0, num_queries, query_chunk):
                some = slice(first, first + query_chunk)
                found = F.normalize(queries(some).to(device), dim=1) @ part.T  # q x n
                values, columns = found.topk(min(k, len(part)), dim=1)
                values = torch.cat([similarities[some].to(device), values], dim=1)  # q x (k + at most k)
                columns = torch.cat([rows[some].to(device), columns + begin], dim=1)
                values, kept = values.topk(k, dim=1)
                similarities[some], rows[some] = values.cpu(), columns.gather(1, kept).cpu()
            bar.update(len(part))
    return similarities, rows


def _check_k(k: int, num_bank: int) -> None:
    if not 1 <= k <= num_bank:
        raise ConfigError(f"k is {k}, but there are {num_bank} training images; take 1 to {num_bank}")


def vote(similarities: Tensor, labels: Tensor, num_classes: int, T: float = 0.07) -> Tensor:
    """Returns class scores: the sum of exp(s / T) over neighbours of the class, divided by that over all neighbours.

    The division changes no ranking; it keeps small temperatures within floating point.

    Args:
        similarities: Q x k.
        labels: Q x k, the labels of the neighbours.

    Returns:
        Q x num_classes, rows that add up to 1; 0 for a class that no neighbour belongs to.
    """
    weights = torch.softmax(similarities / T, dim=1)  # Q x k
    scores = torch.zeros(len(weights), num_classes, dtype=weights.dtype, device=weights.device)
    return scores.scatter_add_(1, labels, weights)


def accuracy(
    train: Features, val: Features, *, k: int = 200, T: float = 0.07, device: torch.device
) -> dict[str, float]:
    """Returns the kNN accuracy of `val` by neighbours in `train`: {"knn/acc1", "knn/acc5"} in percent.

    A class without a vote is never right, even if fewer than 5 classes have one. The queries are divided among the
    processes, all of which must call.

    Raises:
        ConfigError: k is above the number of training images, or T is not above 0.
    """
    if not T > 0:
        raise ConfigError(f"the temperature of the vote is {T}; it must be above 0 (0.07)")
    mine = np.array_split(np.arange(len(val)), dist.world_size())[dist.rank()]
    first = int(mine[0]) if len(mine) else 0

    def queries(some: slice) -> Tensor:
        return val.rows(slice(first + some.start, first + min(some.stop, len(mine))))

    similarities, rows = nearest(queries, len(mine), train.rows, len(train), k, device=device, show=dist.is_main())
    neighbours, truth = torch.from_numpy(train.labels)[rows], torch.from_numpy(val.labels[mine])
    hits = torch.zeros(2, dtype=torch.long)
    for some in torch.arange(len(mine)).split(4096):
        scores = vote(similarities[some], neighbours[some], len(train.classes), T)
        voted = scores.gather(1, truth[some].unsqueeze(1)) > 0  # q x 1
        hits += (top_k_hits(scores, truth[some]) & voted).sum(0)
    acc1, acc5 = (100 * sum(counts) / len(val) for counts in zip(*dist.gather_objects(hits.tolist()), strict=True))
    return {"knn/acc1": acc1, "knn/acc5": acc5}


@dataclass(frozen=True)
class KnnProbe:
    """Measures the kNN accuracy of an encoder that is being trained, whenever it is called.

    It changes nothing about the training: no random number is drawn; weights, BN statistics and modes stay as they are.

    Attributes:
        train, val: labelled sets with the same classes; see `labelled.find_pair` and `LabelledImages.subset`.
        view: a transform without randomness; see `labelled.central_view`.
        folder: where the features are written, anew at every call.
        batch_size: images per batch over all processes.
        num_workers: loader processes of this process.
        k, T: neighbours and temperature of the vote.
    """

    train: LabelledImages
    val: LabelledImages
    view: View
    folder: Path
    batch_size: int
    num_workers: int
    device: torch.device
    k: int = 200
    T: float = 0.07

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """Returns the accuracy by a ResNet's pooled features, see `trunk.pooled`; every process must call."""
        with pooled(encoder) as trunk:
            found = [
                extract(
                    trunk,
                    images,
                    self.view,
                    self.folder,
                    name,
                    trunk_sha256=fingerprint(encoder),
                    batch_size=self.batch_size,
                    num_workers=self.num_workers,
                    device=self.device,
                )
                for name, images in (("train", self.train), ("val", self.val))
            ]
        return accuracy(*found, k=self.k, T=self.T, device=self.device)


def main(
    weights: str | os.PathLike[str],
    train: str | os.PathLike[str],
    val: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    arch: str = "",
    k: int = 200,
    T: float = 0.07,
    resize: int | None = None,
    crop_size: int | None = None,
    batch_size: int = 256,
    num_workers: int = 4,
    device_name: str = "auto",
) -> RunResult:
    """Measures the kNN accuracy of a checkpoint's trunk; writes result.json and memory-mapped features to `output_dir`.

    Under `torchrun` every process calls this. Features that are there already, of the same trunk, images and view, are
    not computed again: another k or T costs seconds.

    Args:
        weights, arch: see `trunk.load_trunk`.
        train, val: see `labelled.find_pair`.
        k, T: neighbours and temperature of the vote.
        resize, crop_size: in pixels; see `view_size.view_size`.
        batch_size, num_workers: see `features.forward`.

    Returns:
        A result of kind "knn", with the metrics knn/acc1 and knn/acc5 in percent.

    Raises:
        ConfigError, CheckpointError, BadImageError: images, weights or numbers cannot be used; the message names the
            option of `tools/knn_eval.py`.
        LockError: another run works in the folder.
    """
    start = time.perf_counter()
    for name, value in {"batch size": batch_size, "k": k}.items():
        if value < 1:
            raise ConfigError(f"the {name} is {value}; it must be at least 1")
    with session(device_name) as device, alone_in(output_dir):
        size = view_size(weights, resize, crop_size)
        view = f"central {size.crop} pixels of images resized to {size.resize}: {size.why}"
        LOG.info(view)
        cautions = shown_share(size.resize, size.crop)
        for line in cautions:
            LOG.warning(line)
        sets = find_pair(train, val, ("--train", "--val"))
        _check_k(k, len(sets[0]))
        network, arch = load_trunk(weights, arch, "--arch")
        trunk = FrozenTrunk(network).to(device)
        found = [
            extract(
                trunk,
                images,
                central_view(size.resize, size.crop),
                Path(output_dir) / "features",
                name,
                trunk_sha256=trunk.sha256,
                batch_size=batch_size,
                num_workers=num_workers,
                device=device,
            )
            for name, images in zip(("train", "val"), sets, strict=True)
        ]
        metrics = accuracy(*found, k=k, T=T, device=device)
        trunk.verify()
        sha256 = file_sha256(weights)
        result = RunResult(
            kind="knn",
            engine="pretrain",
            seed=0,
            config_digest=digest({"k": k, "T": T, "resize": size.resize, "crop_size": size.crop}),
            weights_sha256=sha256,
            inputs=named_inputs(weights=sha256, train=sets[0].digest(), val=sets[1].digest()),
            metrics=metrics,
            seconds=time.perf_counter() - start,
            notes=[
                f"{k} neighbours by cosine similarity of pooled features, weights exp(s / {T:g}); nothing is random",
                view,
                *cautions,
                *dict.fromkeys(note for images in sets for note in images.files.notes),
            ],
            artifacts={"features": "features"},
            provenance=environment(device.type),
            extra={"arch": arch, "trunk_sha256": trunk.sha256, "data_digests": [images.digest() for images in sets]},
        )
        if dist.is_main():
            result.save(output_dir)
        dist.barrier()
    return result
