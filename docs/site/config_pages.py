"""A page per defaults tree: every key with its type, default, limits and meaning, and which engine honours it.

All of it is read: values from the trees, limits and choices from the tables that configs are held against, meanings
from the comments of the defaults (`comments`), engines from the support tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comments import comments

import pretrain.config
import pretrain.probes.config
from pretrain.runtime.config import dotted_keys, value_at
from pretrain.runtime.limits import Limit
from transfer.config import defaults, limits, support
from transfer.engines.tv import adapters
from transfer.tasks import TASKS


@dataclass(frozen=True)
class Tree:
    """A defaults tree and what is known of its keys.

    Attributes:
        source: the module that holds it, relative to the repository.
        roots: see `comments.comments`.
        kinds: key -> an example, where the default does not show the type.
        engines: says who honours a key; None where there is one engine only.
    """

    title: str
    intro: str
    cfg: Mapping[str, Any]
    source: str
    roots: dict[str, str]
    choices: Mapping[str, Any]
    limits: Mapping[str, Limit]
    kinds: Mapping[str, Any]
    engines: Callable[[str], str] | None = None


def trees() -> dict[str, Tree]:
    """Name of the page -> the tree."""
    pre, probe = pretrain.config, pretrain.probes.config
    return {
        "pretraining": Tree(
            "Pre-training",
            "`configs/pretrain/` for `tools/train_moco.py`: what pre-trains.",
            pre.get_cfg(), "pretrain/config.py", {"_C": ""}, pre._CHOICES, pre._LIMITS, {},
        ),
        "classification": Tree(
            "Linear probe and fine-tuning of classifiers",
            "`configs/pretrain/lincls_*.yaml` for `tools/linear_eval.py`, `finetune_*.yaml` for `tools/finetune.py`.",
            probe.get_lincls_cfg(), "pretrain/probes/config.py", {"_C": ""}, probe._CHOICES, probe._LIMITS, {},
        ),
        "transfer": Tree(
            "Transfer",
            "`configs/transfer/` for `tools/train_net.py`: detectors and segmentation, in the shape of Detectron2's "
            "tree. Detectron2 honours all of its own keys, and this project's through it. The torchvision engine does "
            "so too, unless a key says what it does instead; a value that it does not take ends the run at its start.",
            defaults.get_cfg(), "transfer/config/defaults.py",
            {"_MODEL": "MODEL", "_DEFAULTS": "", "_ROI_DENSEPOSE_HEAD": "MODEL.ROI_DENSEPOSE_HEAD", "cfg": ""},
            limits.CHOICES, limits.LIMITS, limits.KINDS, torchvision,
        ),
    }  # fmt: skip


WIDE = "<style>.bd-main .bd-content .bd-article-container {max-width: 100%} td {font-size: 0.9em}</style>"


def pages(root: Path) -> dict[str, str]:
    """Name of the file -> Markdown. `root` is the repository."""
    known = trees()
    written = {f"{name}.md": page(tree, comments(root / tree.source, tree.roots)) for name, tree in known.items()}
    lines = [
        "# Config keys",
        "",
        "A YAML file says what differs from these defaults; unknown keys are errors.",
        "",
    ]
    lines += [f"* [{tree.title}]({name}.md): {tree.intro}" for name, tree in known.items()]
    return written | {"index.md": "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *known, "```", ""])}


def page(tree: Tree, said: Mapping[str, str]) -> str:
    """A section per branch, with a table of its keys.

    Args:
        said: key -> meaning, of branches too.
    """
    heads = ["key", "default", "what it is", "meaning"]
    lines = [f"# {tree.title}", "", tree.intro, "", WIDE, ""]
    for branch, keys in branches(tree.cfg).items():
        lines += [f"## {branch or 'The rest'}", ""]
        if branch in said:
            lines += [sentence(said[branch]), ""]
        lines += [_row(heads), _row(["---"] * len(heads))]
        for key in keys:
            value = value_at(tree.cfg, key)
            meaning = plain(sentence(said[key]))
            if tree.engines and (engine := tree.engines(key)) != support.HONOURED.status:
                meaning += f" *Torchvision:* {plain(engine)}."
            lines.append(_row([code(key.rpartition(".")[2]), code(shown(value)), what(tree, key, value), meaning]))
        lines.append("")
    return "\n".join(lines)


def branches(cfg: Mapping[str, Any]) -> dict[str, list[str]]:
    """Branch -> its own keys, in the tree's order; those without a branch come last, under ""."""
    found: dict[str, list[str]] = {}
    for key in dotted_keys(cfg):
        found.setdefault(key.rpartition(".")[0], []).append(key)
    return {branch: keys for branch, keys in found.items() if branch} | {"": found.get("", [])}


def kind(value: Any) -> str:
    """The type of a value in words: of a list its elements', too."""
    if isinstance(value, (list, tuple)):
        inner = sorted({kind(v) for v in value})
        return f"list: {' or '.join(inner)}" if inner else "list"
    names = {bool: "True or False", int: "whole number", float: "number", str: "text", type(None): "number or null"}
    return names[type(value)]


def shown(value: Any) -> str:
    """A default as it is written: text as it is, lists in full."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value) if not isinstance(value, str) or not value else value


def what(tree: Tree, key: str, value: Any) -> str:
    """The type of a key, and which values it may have."""
    if key in tree.choices:
        return " or ".join(code(str(choice) or "''") for choice in tree.choices[key])
    limit = tree.limits.get(key, Limit())
    return ", ".join(filter(None, [kind(tree.kinds.get(key, value)), str(limit), limit.count]))


def torchvision(key: str) -> str:
    """What the torchvision engine does with a key, on the task of boxes and masks, and on tasks that differ."""
    said = [status(support.lookup(key))]
    for task in TASKS:
        table = own_entries(task)
        if (entry := next(_entries(key, table), None)) is not None and entry != support.lookup(key):
            said.append(f"{task}: {status(entry)}")
    return "; ".join(said)


def own_entries(task: str) -> Mapping[str, support.Support]:
    """What a task's adapter says of keys where it differs; empty where the engine has none."""
    try:
        return adapters.adapter_of(task).support
    except support.ConfigError:
        return {}


def _entries(key: str, table: Mapping[str, support.Support]) -> Iterator[support.Support]:
    """The table's entry of a key, or of the nearest branch, if it has one."""
    try:
        yield support.lookup(key, table)
    except KeyError:
        return


def status(entry: support.Support) -> str:
    """An entry of the support table in words."""
    words = entry.status
    if entry.status == "refused":
        words = f"its default alone: {entry.why}"
    elif entry.status == "no effect":
        words = f"no effect: {entry.why}"
    elif entry.why:
        words = f"honoured in part: {entry.why}"
    return f"{words} ({entry.idle} otherwise)" if entry.idle else words


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def plain(text: str) -> str:
    """Text that Markdown is to leave as it is, but for code spans."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[*_<>\[\]{}\\$~]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def code(text: str) -> str:
    return f"`{text}`"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
