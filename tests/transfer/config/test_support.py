"""Every key of the tree is honoured, refused with a reason, or said to have no effect."""

from __future__ import annotations

import pytest

from pretrain.runtime.config import ConfigError, dotted_keys
from transfer.config import support
from transfer.config.defaults import get_cfg
from transfer.config.load import load_config


def test_every_key_has_an_entry_and_every_entry_a_key():
    keys = set(dotted_keys(get_cfg()))
    for key in keys:
        entry = support.lookup(key)
        assert entry.status in ("honoured", "refused", "no effect")
        assert entry.status == "honoured" and entry.accepts is None or entry.why, key
    for name in support.TABLE:
        branch = name[:-1] if name.endswith(".*") else None
        assert name in keys or (branch and any(k.startswith(branch) for k in keys)), name


def test_the_papers_configs_pass(small_config):
    assert support.check(load_config(small_config)) == []


def test_refusals_come_all_at_once_with_reasons(small_config):
    cfg = load_config(small_config, ["MODEL.LOAD_PROPOSALS", "True", "TEST.AUG.ENABLED", "True"])
    with pytest.raises(ConfigError) as error:
        support.check(cfg)
    assert "MODEL.LOAD_PROPOSALS = True: precomputed proposals are not supported" in str(error.value)
    assert "TEST.AUG.ENABLED = True" in str(error.value)


def test_a_key_without_effect_is_said_to_have_none(small_config):
    (line,) = support.check(load_config(small_config, ["VIS_PERIOD", "10"]))
    assert "VIS_PERIOD = 10 has no effect" in line


def test_values_outside_what_is_honoured_are_refused(small_config):
    with pytest.raises(ConfigError, match="MODEL.RESNETS.NORM = 'GN'"):
        support.check(load_config(small_config, ["MODEL.RESNETS.NORM", "GN"]))
