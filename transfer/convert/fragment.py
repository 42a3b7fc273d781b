"""Writes the YAML that fits converted weights: how the detector's config must read images and build its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from transfer.config.basic_blocks import DEPTHS, WIDTH
from transfer.config.support import ANY_WIDTH


def fragment(metadata: Mapping[str, Any], weights: str) -> str:
    """Returns the text of a config fragment, to be put under a `_BASE_` that says which detector it is.

    Facts that the weights do not state are left out, and a comment says which.

    Args:
        metadata: see `convert.metadata_of`.
        weights: the value of `MODEL.WEIGHTS`.
    """
    stated, stride = metadata["channel_order"] is not None, metadata["stride_in_1x1"]
    mean, std = (_numbers(metadata[key]) for key in ("pixel_mean", "pixel_std"))
    source = " ".join(str(metadata["source"]).split()).encode("utf-8", "backslashreplace").decode()
    lines = [f"# Fits {metadata['arch']} from {source} ({metadata['layout']})."]
    if not stated:
        lines.append("# The weights do not say INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD: set them yourself.")
    if stride is None and metadata["depth"] >= 50:
        lines.append("# They do not say MODEL.RESNETS.STRIDE_IN_1X1 (True for MSRA's, False for torchvision's) either.")
    if metadata["batch_norm"] == "folded":
        lines.append(
            "# Their batch-norm statistics are folded into scale and shift; trained all the same, as in the papers."
        )
    lines += ["MODEL:", f"  WEIGHTS: {_quoted(weights)}"]
    lines += [f"  PIXEL_MEAN: {mean}", f"  PIXEL_STD: {std}"] if stated else []
    if metadata["depth"] in DEPTHS and metadata["res2_out_channels"] != WIDTH:
        lines += ["  BACKBONE:", f'    NAME: "{ANY_WIDTH}"']
    lines += [
        "  RESNETS:",
        f"    DEPTH: {metadata['depth']}",
        f"    NUM_GROUPS: {metadata['groups']}",
        f"    WIDTH_PER_GROUP: {metadata['width_per_group']}",
        f"    STEM_OUT_CHANNELS: {metadata['stem_out_channels']}",
        f"    RES2_OUT_CHANNELS: {metadata['res2_out_channels']}",
        *([] if stride is None else [f"    STRIDE_IN_1X1: {stride}"]),
        '    NORM: "naiveSyncBN"',
    ]
    lines += ["INPUT:", f'  FORMAT: "{metadata["channel_order"]}"'] if stated else []
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)
    return quoted.strip()


def _numbers(values: list[float] | None) -> str:
    return "" if values is None else "[" + ", ".join(f"{v:.3f}" for v in values) + "]"
