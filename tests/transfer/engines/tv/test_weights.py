"""What a log says of tensors that a file does not set."""

from __future__ import annotations

from transfer.engines.tv.weights import grouped


def test_tensors_are_told_by_their_module() -> None:
    names = ["rpn.head.conv.weight", "rpn.head.conv.bias", "roi_heads.box_predictor.cls_score.weight"]
    assert grouped(names) == "rpn.head (2 tensors), roi_heads.box_predictor (1 tensor)" and grouped([]) == ""
