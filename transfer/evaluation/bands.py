"""How far results of one recipe lie apart by chance: what the authors of MoCo write about fine-tuning.

Published means are of five trials on VOC and of one on COCO; `transfer.trials.significance` makes verdicts of this.
"""

EXPECTED_STD = {"AP50": 0.2, "AP": 0.2, "AP75": 0.4}
"""VOC: standard deviation over fine-tuning trials of one checkpoint, in points of AP (fine-tuning notes of MoCo)."""

COCO_GAP = 0.3
"""COCO: a difference in AP up to this is within variation, by the same notes."""
