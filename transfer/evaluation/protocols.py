"""Lists how predictions are scored: one table of protocols, each with its metrics and its evaluator.

Nothing heavy is imported until an evaluator is made, so that `tools/status.py` is quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transfer.evaluation.metric import Metric, Rule, full_key

_VOC_STD = {"AP50": 0.2, "AP": 0.2, "AP75": 0.4}  # over fine-tuning trials, MoCo's notes on fine-tuning
_COCO_GAP = Rule(gap=0.3)  # the same notes: on COCO a difference of 0.3 AP is within variation


@dataclass(frozen=True)
class Protocol:
    """Describes one way to score predictions.

    Attributes:
        name: its name in results and data sets.
        label: its name for people.
        metrics: all metrics that it computes, the headline first.
        implementation: "module:Class" of its `evaluator.Evaluator`; empty for probes, which make their own results.
        note: one sentence that a reader of its curves or tables must know; may be empty.
        maps: whether a prediction is a map of classes, the size of its image.
        text_files: whether its predictions may also come as the VOC devkit's text files, one per class.
    """

    name: str
    label: str
    metrics: tuple[Metric, ...]
    implementation: str = ""
    note: str = ""
    text_files: bool = False
    maps: bool = False

    def metric(self, name: str) -> Metric | None:
        """Returns the metric of a key or short name ("AP50"), or None if the protocol has no such metric."""
        key = full_key(name)
        return next((m for m in self.metrics if m.key == key), None)

    def evaluator(self, *args: Any, **kwargs: Any) -> Any:
        """Makes a fresh evaluator; the arguments are those of its class."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)(*args, **kwargs)


def _voc(name: str, label: str, note: str) -> Protocol:
    papers = [Metric(f"bbox/{m}", m, Rule(std=std), per_class=True) for m, std in _VOC_STD.items()]
    exact = [Metric(f"bbox_unrounded/{m}", f"unrounded {m}") for m in _VOC_STD]
    return Protocol(name, label, (*papers, *exact), "transfer.evaluation.voc:VOCEvaluator", note, text_files=True)


def _coco() -> Protocol:
    metrics = []
    for kind, words in (("bbox", ""), ("segm", "mask ")):
        metrics += [Metric(f"{kind}/AP", f"{words}AP", _COCO_GAP, per_class=True)]
        metrics += [Metric(f"{kind}/{m}", f"{words}{m}") for m in ("AP50", "AP75", "APs", "APm", "APl")]
    return Protocol("coco", "COCO AP", tuple(metrics), "transfer.evaluation.coco:COCOEvaluator")


def _coco_keypoints(boxes_and_masks: Protocol) -> Protocol:
    """Adds keypoint AP, which has no rule: nobody has published how far two keypoint APs lie apart by chance."""
    metrics = [Metric("keypoints/AP", "keypoint AP", per_class=True)]
    metrics += [Metric(f"keypoints/{m}", f"keypoint {m}") for m in ("AP50", "AP75", "APm", "APl")]
    evaluator = "transfer.evaluation.coco_keypoints:COCOKeypointEvaluator"
    return Protocol("coco_keypoints", "COCO keypoint AP", (*metrics, *boxes_and_masks.metrics), evaluator)


def _densepose(boxes: Protocol) -> Protocol:
    """Adds DensePose's AP, which only Detectron2's DensePose project computes: the one protocol of a single engine."""
    metrics = [Metric(f"densepose/{m}", f"DensePose {m}") for m in ("AP", "AP50", "AP75", "APm", "APl")]
    return Protocol(
        "densepose",
        "DensePose AP by geodesic point similarity",
        (*metrics, *(m for m in boxes.metrics if m.key.startswith("bbox/"))),
        "transfer.engines.d2.densepose:DensePoseEvaluator",
    )


def _miou() -> Protocol:
    others = [("fwIoU", "IoU by frequency"), ("mACC", "mean class accuracy"), ("pACC", "pixel accuracy")]
    metrics = (Metric("sem_seg/mIoU", "mIoU", per_class=True), *(Metric(f"sem_seg/{m}", words) for m, words in others))
    return Protocol("miou", "semantic mIoU", metrics, "transfer.evaluation.miou:MIoUEvaluator", maps=True)


def _lvis() -> Protocol:
    metrics = []
    for kind, words in (("segm", "mask "), ("bbox", "")):
        metrics += [Metric(f"{kind}/AP", f"{words}AP", per_class=True)]
        names = ("AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
        metrics += [Metric(f"{kind}/{m}", f"{words}{m}") for m in names]
    return Protocol("lvis", "LVIS AP", tuple(metrics), "transfer.evaluation.lvis:LVISEvaluator")


def _cityscapes() -> Protocol:
    metrics = tuple(Metric(f"segm/{m}", f"mask {m}", per_class=True) for m in ("AP", "AP50"))
    return Protocol("cityscapes", "Cityscapes AP", metrics, "transfer.evaluation.cityscapes:CityscapesEvaluator")


def _probe(name: str, label: str, *metrics: Metric) -> Protocol:
    pretext = (Metric("pretext/acc1", "pretext accuracy"), Metric("pretext/loss", "pretext loss"))
    return Protocol(name, label, (*metrics, *pretext))


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _voc("voc07", "11-point VOC AP", "precision is taken at 11 recalls"),
        _voc("voc12", "VOC AP by area", ""),
        _coco(),
        _coco_keypoints(_coco()),
        _densepose(_coco()),
        _miou(),
        _lvis(),
        _cityscapes(),
        _probe("knn", "kNN on frozen features", Metric("knn/acc1", "kNN top-1")),
        _probe(
            "linear", "linear classifier on frozen features",
            Metric("linear/acc1", "linear top-1"), Metric("linear/acc5", "linear top-5"),
        ),
        _probe(
            "finetune", "classifier fine-tuned with its trunk",
            Metric("finetune/acc1", "fine-tuned top-1"), Metric("finetune/acc5", "fine-tuned top-5"),
        ),
    )
}  # fmt: skip


def known_metric(name: str) -> Metric | None:
    """Returns the first protocol's metric of that name, for labels of an unknown protocol; None if none has it."""
    return next((m for p in PROTOCOLS.values() if (m := p.metric(name)) is not None), None)


def metric_names() -> list[str]:
    """Returns every metric's key once."""
    return list(dict.fromkeys(m.key for p in PROTOCOLS.values() for m in p.metrics))
