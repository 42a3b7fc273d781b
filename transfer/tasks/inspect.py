"""Checks a config against the papers' protocol, its weights, its task and its data sets, before a training starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.runtime.config import ConfigError
from transfer.config.lint import NAMES, RATE, Finding, error, lint, warning
from transfer.data import catalog
from transfer.data.catalog import DatasetError
from transfer.data.dataset import classes_differ
from transfer.data.formats import format_of
from transfer.tasks import task_of


def inspect(
    cfg: CfgNode, facts: Mapping[str, Any] | None, names: Mapping[str, Collection[str]] = NAMES
) -> list[Finding]:
    """Finds everything that is wrong with a merged config.

    A data set that is known but not on this machine is a warning, because a training refuses it itself; an unknown one
    is an error.

    Args:
        facts: see `transfer.config.initial_weights.weights_facts`; None for random weights.
        names: key -> the names that are allowed there.
    """
    found: list[Finding] = []
    classes: dict[str, Sequence[str]] = {}
    task = task_of(cfg)
    absent = [file for file in cfg.DATASETS.SPECS if not Path(file).exists()]
    for file in absent:
        found.append(warning("data", "DATASETS.SPECS", f"'{file}' is not here: data sets not checked"))
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key] if not absent else ():
            try:
                (spec,) = catalog.resolve([name], cfg.DATASETS.SPECS)
                if task is not None:
                    task.protocol_of(name, format_of(spec).protocols(spec))
                if spec.classes is not None or format_of(spec).is_present(spec):
                    classes[name] = catalog.class_names(spec)
                else:
                    place = format_of(spec).place(spec)
                    found.append(
                        warning("data", f"DATASETS.{key}", f"'{name}' is not here ('{place}'): classes not checked")
                    )
            except (ConfigError, DatasetError) as problem:
                found.append(error("data", f"DATASETS.{key}", str(problem)))
    found += lint(cfg, facts, names, (RATE,) if task is None else task.rates)
    if task is not None:
        found += task.lint(cfg)
        key, given = task.classes(cfg)
        found += [
            error("classes", key, f"{key.rpartition('.')[2]} is {given}, but data set '{name}' has {len(own)} classes: "
                  "set it so")
            for name, own in classes.items()
            if len(own) != given
        ]  # fmt: skip
    if (fault := classes_differ(classes)) is not None:
        found.append(error("class-names", "DATASETS", fault))
    return found
