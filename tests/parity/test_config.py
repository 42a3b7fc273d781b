"""Our defaults are Detectron2's; our YAMLs load in stock Detectron2 and say what the reference's say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.config import dotted_keys, load_yaml_with_base, to_dict, value_at
from tests.conftest import ROOT
from transfer.config.defaults import get_cfg
from transfer.config.load import digest, load_config

pytestmark = pytest.mark.d2

CONFIGS = sorted((ROOT / "configs" / "transfer").rglob("*.yaml"))
REFERENCE = {
    "faster_rcnn_R_50_C4_24k.yaml": "pascal_voc_R_50_C4_24k.yaml",
    "faster_rcnn_R_50_C4_24k_moco.yaml": "pascal_voc_R_50_C4_24k_moco.yaml",
}


def test_defaults_equal_detectron2s():
    from transfer.engines.d2.engine import Detectron2Engine

    ours, theirs = get_cfg(), Detectron2Engine().defaults()
    assert set(dotted_keys(ours)) == set(dotted_keys(theirs))
    for key in dotted_keys(ours):
        assert value_at(ours, key) == value_at(theirs, key) and type(value_at(ours, key)) is type(
            value_at(theirs, key)
        ), key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_yaml_loads_in_stock_detectron2(path: Path):
    from detectron2.config import get_cfg as stock

    from transfer.engines.d2.register import add

    cfg = stock()
    add(cfg)
    cfg.merge_from_file(str(path))
    assert to_dict(cfg) == to_dict(load_config(path))
    assert digest(cfg) == digest(load_config(path))


@pytest.mark.parametrize(("ours", "theirs"), REFERENCE.items())
def test_resolved_config_equals_the_references(ours: str, theirs: str, moco_reference: Path):
    """On every key but the weights, which a row of an experiment or the command line gives."""
    from detectron2.config import get_cfg as stock

    reference = stock()
    reference.merge_from_file(str(moco_reference / "detection" / "configs" / theirs))
    mine = load_config(ROOT / "configs" / "transfer" / "voc" / ours)
    keys = set(dotted_keys(load_yaml_with_base(moco_reference / "detection" / "configs" / theirs)))
    assert len(keys) > 15
    for key in keys - {"MODEL.WEIGHTS"}:
        assert to_dict(value_at(mine, key)) == to_dict(value_at(reference, key)), key
    assert all(
        to_dict(value_at(mine, k)) == to_dict(value_at(reference, k))
        for k in dotted_keys(reference)
        if k != "MODEL.WEIGHTS"
    )
