"""Metrics by name: keys, short names of boxes, test sets before them; unknown ones with the nearest."""

from __future__ import annotations

import pytest

from pretrain.runtime.config import ConfigError
from transfer.evaluation.protocols import PROTOCOLS
from transfer.trials.metrics import find


def test_found():
    assert [(find(n).key, find(n).label) for n in ("AP50", "bbox/AP", "segm/AP", "cells_test/segm/AP")] == [
        ("bbox/AP50", "AP50"), ("bbox/AP", "AP"), ("segm/AP", "mask AP"),
        ("cells_test/segm/AP", "mask AP on cells_test"),
    ]  # fmt: skip
    assert find("knn/acc1", (PROTOCOLS["knn"],)).label == "kNN top-1"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("AP5O", "did you mean AP50"), ("seg/AP", "did you mean segm/AP"), ("mIoU", "did you mean sem_seg/mIoU"),
     ("quality", "there are AP50, AP, AP75"),
     ("bbox/mIoU", "no metric is called 'bbox/mIoU'"), ("knn/acc1", "no metric is called"), ("set/AP50", "no metric")],
)  # fmt: skip
def test_unknown(name, hint):
    with pytest.raises(ConfigError, match=hint):
        find(name)
