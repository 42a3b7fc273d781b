"""Extends Detectron2's trainer: this module says where it evaluates, where it writes and when it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import Sampler

from pretrain.runtime import dist
from pretrain.runtime.log import MetricsWriter
from pretrain.runtime.preempt import StopRequest
from pretrain.runtime.seed import derive
from pretrain.runtime.workers import check_workers
from transfer.engines.d2.adapters.adapter import Adapter
from transfer.engines.d2.whole_files import WholeFiles
from transfer.engines.resolve import precision
from transfer.engines.sampling import configured_factors, index_stream


class Session(Protocol):
    """Declares what the trainer asks of a run.

    Attributes:
        latest: metrics and details of the last evaluation.
    """

    cfg: CfgNode
    adapter: Adapter
    output_dir: Path
    stop: StopRequest
    latest: tuple[dict[str, float], dict[str, Any]]

    def test(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
        """Returns metrics and details over all test sets."""


class _MetricsFile(EventWriter):
    """Writes Detectron2's scalars to our `metrics.jsonl`, where reports find them for either engine."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._out: MetricsWriter | None = None
        self._last = -1

    def write(self) -> None:
        storage = get_event_storage()
        if self._out is None:  # only now is the iteration known that training resumed at
            self._out = MetricsWriter(self._trainer.session.output_dir, self._trainer.start_iter, tensorboard=False)
            self._last = self._trainer.start_iter - 1
        fresh = {k: v for k, (v, i) in storage.latest_with_smoothing_hint(20).items() if i > self._last}
        if fresh:
            self._last = storage.iter
            self._out.write(min(storage.iter, self._trainer.max_iter - 1), **fresh)  # after the end it counts one more

    def close(self) -> None:
        if self._out is not None:
            self._out.close()


class Stopped(BaseException):
    """Leaves Detectron2's training loop, which logs every Exception as a crash."""


class _Stop(HookBase):
    """Writes a checkpoint and stops once a signal asks for it; several processes agree on it every 20 iterations."""

    def __init__(self, stop: StopRequest):
        self._stop = stop

    def after_step(self) -> None:
        trainer = self.trainer
        done = trainer.iter + 1
        asked = self._stop.anywhere() if done % 20 == 0 or dist.world_size() == 1 else ""
        if asked and done < trainer.max_iter:
            trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            dist.barrier()
            raise Stopped(f"{asked}: stopped after {done} of {trainer.max_iter} iterations")


class RepeatedImages(Sampler[int]):
    """Yields this process's image indices without end; see `sampling.index_stream`."""

    def __init__(self, factors: Sequence[float], seed: int):
        self._factors, self._seed = factors, seed

    def __iter__(self) -> Iterator[int]:
        rank, world_size = dist.rank(), dist.world_size()
        stream = index_stream(len(self._factors), derive(self._seed, 0), rank, world_size, self._factors)
        return (index for _, index in stream)


class _Watched:
    """Wraps a loader so that it calls `failed` before it raises, while the iterations done so far are whole."""

    def __init__(self, loader: Iterable[Any], failed: Callable[[], None]):
        self._loader, self._failed = loader, failed

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception:
                self._failed()
                raise
            yield batch


class Trainer(DefaultTrainer):
    """Adds this project's evaluation, files and stopping to Detectron2's trainer."""

    session: Session

    @classmethod
    def start(cls, session: Session, resume: bool) -> Trainer:
        """Builds the trainer and loads the checkpoint to resume from, or the initial weights."""
        cls.session = session
        trainer = cls(session.cfg)
        if (dtype := precision(session.cfg)) is not None:
            trainer._trainer.precision = dtype  # of Detectron2's AMPTrainer, which its DefaultTrainer leaves at fp16
        trainer.checkpointer.path_manager = WholeFiles()
        trainer.data_loader = _Watched(trainer.data_loader, trainer.keep)
        trainer.resume_or_load(resume=resume)
        return trainer

    def keep(self) -> None:
        """Writes a checkpoint of the iterations done, if some are new and no other process takes part in the run."""
        if dist.world_size() == 1 and self.iter > self.start_iter:
            self.checkpointer.save(f"model_{self.iter - 1:07d}", iteration=self.iter - 1)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Builds Detectron2's loader; where images are repeated, it reads the same stream as the other engine."""
        check_workers(cfg.DATALOADER.NUM_WORKERS)
        adapter = cls.session.adapter
        mapper, records = adapter.named_mapper(cfg, is_train=True), adapter.training_records(cfg)
        factors = configured_factors(cfg, records)
        sampler = None if factors is None else RepeatedImages(factors, max(cfg.SEED, 0))
        return build_detection_train_loader(cfg, mapper=mapper, dataset=records, sampler=sampler)

    def build_hooks(self) -> list[HookBase]:
        return [*super().build_hooks(), _Stop(self.session.stop)]

    def build_writers(self) -> list[EventWriter]:
        return [*super().build_writers(), _MetricsFile(self)]

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, dict[str, float]]:
        """Evaluates when Detectron2's evaluation hook asks for it, the last time after the last iteration."""
        metrics, details = cls.session.test(model)
        cls.session.latest = (metrics, details)
        grouped: dict[str, dict[str, float]] = {}
        for name, value in metrics.items():
            task, _, metric = name.rpartition("/")
            grouped.setdefault(task, {})[metric] = value
        return grouped
