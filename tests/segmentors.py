"""The papers' semantic segmentor at sizes that a CPU runs in seconds, on the generated maps."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ROOT

DEMO = ROOT / "configs" / "transfer" / "voc" / "fcn_R_18_demo_moco.yaml"
R50 = ROOT / "configs" / "transfer" / "voc" / "fcn_R_50_30k_moco.yaml"
R50_MSRA = ROOT / "configs" / "transfer" / "voc" / "fcn_R_50_30k.yaml"


def options(generated: Path, output: Path) -> list[str]:
    """Options on top of a segmentor's config: the generated maps, a run of seconds."""
    return [
        "DATASETS.SPECS", f"('{generated}/semantic.yaml',)",
        "DATASETS.TRAIN", "('generated_sem_seg_train',)",
        "DATASETS.TEST", "('generated_sem_seg_val',)",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
        "MODEL.DEVICE", "cpu",
        "INPUT.CROP.SIZE", "[49, 65]",
        "DATALOADER.NUM_WORKERS", "0",
        "SOLVER.IMS_PER_BATCH", "2",
        "SOLVER.MAX_ITER", "6",
        "SOLVER.STEPS", "(4,)",
        "SOLVER.CHECKPOINT_PERIOD", "2",
        "SEED", "3",
        "OUTPUT_DIR", str(output / "run"),
    ]  # fmt: skip
