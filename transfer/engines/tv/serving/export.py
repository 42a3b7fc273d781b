"""Writes a trained network as a file for serving, but only if the file computes what the network computes."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

from pretrain.runtime.checkpoint import atomic_write
from pretrain.runtime.errors import ConfigError
from pretrain.runtime.provenance import file_sha256, package_version
from transfer.config.load import digest
from transfer.engines import base, resolve
from transfer.engines.tv.adapters import ADAPTERS, check_support
from transfer.engines.tv.inference import load_whole
from transfer.engines.tv.serving.file_formats import FORMATS
from transfer.engines.tv.serving.proof import Difference, difference, made_up
from transfer.tasks import task_of

logger = logging.getLogger(__name__)

MADE_UP = ((320, 480), (400, 301), (257, 257))  # height, width, none of them that of the trace


def export(
    cfg: CfgNode, output: Path, kind: str, names: Sequence[str], images: Sequence[np.ndarray]
) -> list[Difference]:
    """Does what `base.Engine.export` describes."""
    task, form = task_of(cfg), FORMATS[kind]
    if task is None or task.name not in ADAPTERS:
        what = "a config of no known task" if task is None else f"the task '{task.name}'"
        raise ConfigError(f"{what} is not exported by the torchvision engine; see docs/serving.md for Detectron2's")
    if output.suffix != form.suffix:
        raise ConfigError(f"--output '{output}': files of --format {kind} end in {form.suffix}; name it so")
    if output.is_dir():
        raise ConfigError(f"--output '{output}' is a folder; name the file")
    notes, path = resolve.RunNotes(), resolve.detector_file(cfg, "an export")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent):  # what cannot be written there is said now
        pass
    for line in check_support(cfg):
        notes.add(line)
    adapter = ADAPTERS[task.name]
    model = adapter.build(resolve.norms(cfg, 1, notes), "cpu")
    served = adapter.served(cfg, model).eval()
    form.check(served)
    load_whole(model, path)
    metadata = {
        "task": task.name,
        "classes": json.dumps(list(names)),
        "channel_order": cfg.INPUT.FORMAT,
        "min_size": str(cfg.INPUT.MIN_SIZE_TEST),
        "max_size": str(cfg.INPUT.MAX_SIZE_TEST),
        "weights_sha256": file_sha256(path),
        "config_digest": digest(cfg),
        "made_by": f"moco-transfer {package_version('moco-transfer') or ''}".strip(),
    }
    if "scores" in served.outputs:
        metadata["score_threshold"] = str(cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST)
    logger.info("tracing; a deep network takes a minute or two")
    try:
        file = form.write(served, metadata)
    except Exception as error:  # of any kind, from any depth of torch
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise base.EngineError(f"torch {torch.__version__} does not trace this network to {kind}: {why}") from error
    run, found = form.runner(file), []
    for image in images or [made_up(*size) for size in MADE_UP]:
        outputs = run(np.ascontiguousarray(image.transpose(2, 0, 1)))
        given = dict(zip(served.outputs, outputs, strict=True))
        found.append(difference(served.expected(image), given, (image.shape[0], image.shape[1])))
    if wrong := [str(one) for one in found if one.too_large]:
        raise base.EngineError(
            f"'{output}' is not written: it differs from its network by more than rounding ({'; '.join(wrong)}); "
            "please report it, with the config and the versions of torch, torchvision and onnxruntime"
        )
    if all(one.found == (0, 0) for one in found):
        logger.warning("nothing was found on the images that were compared; name some of yours with --image")
    with atomic_write(output) as f:
        f.write(file)
    return found
