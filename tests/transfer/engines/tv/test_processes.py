"""Two gloo processes are one with the whole batch, where the losses' definitions let them be."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.architectures import ARCHITECTURES, options
from transfer.config.load import load_config
from transfer.convert.read import read_weights
from transfer.engines.tv.engine import TorchvisionEngine

SIZE = (96, 72)  # width, height


def equal_sizes(generated: Path, folder: Path) -> Path:
    """The generated VOC set with all images of one size: padding and each process's share in BN are then equal."""
    shutil.copytree(generated, folder)
    for annotation in (folder / "scenes" / "Annotations").glob("*.xml"):
        image = folder / "scenes" / "JPEGImages" / f"{annotation.stem}.jpg"
        with Image.open(image) as picture:
            scale = [new / old for new, old in zip(SIZE, picture.size, strict=True)]
            picture.resize(SIZE).save(image)
        tree = ET.parse(annotation)
        for name, value in zip(("width", "height"), SIZE, strict=True):
            tree.find(f"size/{name}").text = str(value)
        for box in tree.iter("bndbox"):
            for edge in box:
                edge.text = str(max(1, round(float(edge.text) * scale[edge.tag.startswith("y")])))
            for low, high in (("xmin", "xmax"), ("ymin", "ymax")):
                box.find(high).text = str(max(int(box.find(high).text), int(box.find(low).text) + 4))
        tree.write(annotation)
    return folder


# The rate: at higher ones rounding lets another proposal survive sooner or later, and the runs part.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate"), [("R18-C4", "0.0001"), ("R18-FPN", "0.00003")])
def test_two_processes_equal_one_after_6_iterations(name, rate, generated, tmp_path, forked):
    """Same weights within 1e-4. Nothing is sampled, so that nothing is random: all anchors, and as many RoIs per image.

    Otherwise each process draws its own anchors and RoIs, and the mean over RoIs is one over each process's own number.
    """
    data = equal_sizes(generated, tmp_path / "data")
    words = [
        *options(name, data, tmp_path),
        "DATASETS.SPECS", f"('{data}/voc.yaml',)", "DATASETS.TRAIN", "('generated_trainval',)",
        "DATASETS.TEST", "('generated_test',)", "INPUT.MIN_SIZE_TRAIN", "(96,)",
        "MODEL.RESNETS.NORM", "SyncBN", *(["MODEL.FPN.NORM", "SyncBN"] if "FPN" in name else []),
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000", "MODEL.RPN.POSITIVE_FRACTION", "1.0",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN", "16", "MODEL.RPN.NMS_THRESH", "0.95",
        "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "100",
        "SOLVER.BASE_LR", rate,
        "TEST.PRECISE_BN.ENABLED", "False",  # it corrects variances by each process's own number of samples
    ]  # fmt: skip
    still = ["SOLVER.BASE_LR", "1e-12", "SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0"]
    initial, one, two = (
        _weights(name, tmp_path / f"run{i}", processes, *words, *opts)
        for i, (processes, opts) in enumerate([(1, still), (1, []), (2, [])])
    )
    for key in one:
        if one[key].is_floating_point():
            limit = 1e-4 * max(1.0, float(one[key].abs().max()))
            assert float((one[key] - two[key]).abs().max()) <= limit, key
    learnt = [key for key in one if key.endswith(".weight")]
    moved = sum(float((one[key] - initial[key]).square().sum()) for key in learnt) ** 0.5
    apart = sum(float((one[key] - two[key]).square().sum()) for key in learnt) ** 0.5
    assert apart < 0.05 * moved


def _weights(name: str, folder: Path, processes: int, *opts: str) -> dict[str, torch.Tensor]:
    cfg = load_config(ARCHITECTURES[name][0], [*opts, "OUTPUT_DIR", str(folder)])
    TorchvisionEngine().train(cfg, num_gpus=processes)
    return read_weights(folder / "model_final.pth")
