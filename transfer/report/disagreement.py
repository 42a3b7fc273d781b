"""Finds the test images on which two rows disagree most, by objects found (`evaluation.objects_found`).

A row's number is the mean over its finished trials; images are ranked by the difference of two rows.
"""

from __future__ import annotations

import numpy as np

RULE = (
    "Ranked by objects found: of each trial as many of its surest detections as there are objects; one counts if it "
    "overlaps an object of its class, not taken by a surer one, with an IoU of at least 0.5. Mean over the row's "
    "finished trials, minus the other row's; equal differences stand in the data set's order."
)


def most(ours: np.ndarray, theirs: np.ndarray, count: int) -> list[int]:
    """Returns up to `count` images in which `ours` found more objects than `theirs`, the largest differences first.

    Args:
        ours, theirs: (images,) number of objects found.
    """
    gain = ours - theirs
    order = np.argsort(-gain, kind="stable")[:count]
    return [int(i) for i in order if gain[i] > 0]
