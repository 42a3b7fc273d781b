"""Finds the metrics that an experiment file names, by key, by short name (boxes), or of one of several test sets."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from pretrain.runtime.config import ConfigError
from transfer.evaluation.metric import Metric, full_key
from transfer.evaluation.protocols import PROTOCOLS, Protocol


def of_fine_tuning() -> tuple[Protocol, ...]:
    """Returns the protocols that score fine-tuned networks; the data set says which of them applies."""
    return tuple(protocol for protocol in PROTOCOLS.values() if protocol.implementation)


def find(name: str, protocols: Sequence[Protocol] | None = None) -> Metric:
    """Returns the metric of that name, as described by the first protocol that has it.

    Args:
        name: a key ("segm/AP"), for boxes also without "bbox/" ("AP50"); with the data set in front if a config tests
            on several ("cells_test/bbox/AP50").
        protocols: protocols to search; by default those of fine-tuning.

    Raises:
        ConfigError: none of the protocols has the metric; the message names the nearest that they have.
    """
    protocols = of_fine_tuning() if protocols is None else protocols
    if (known := _known(name, protocols)) is not None:
        return known
    dataset, _, rest = name.partition("/")
    if "/" in rest and (known := _known(rest, protocols)) is not None:
        return replace(known, key=name, label=f"{known.label} on {dataset}")
    raise ConfigError(f"no metric is called '{name[:60]}'; {_nearest(name, protocols)}")


def _known(name: str, protocols: Sequence[Protocol]) -> Metric | None:
    return next((m for protocol in protocols if (m := protocol.metric(name)) is not None), None)


def _nearest(name: str, protocols: Sequence[Protocol]) -> str:
    keys = list(dict.fromkeys(m.key for protocol in protocols for m in protocol.metrics))
    names = {full_key(short): short for short in (key.removeprefix("bbox/") for key in keys)}
    shown = [names.get(key, key) for key in keys]
    close = difflib.get_close_matches(name.lower(), [s.lower() for s in shown], n=3, cutoff=0.5)
    near = [s for s in shown if s.lower() in close]
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(shown)}"
