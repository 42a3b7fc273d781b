"""The linter: the project's configs pass, every known mistake has one finding, and the weights' own facts count."""

from __future__ import annotations

import pickle

import pytest
import torch

from pretrain.runtime.checkpoint import CheckpointError
from tests.conftest import ROOT
from tests.transfer.convert.checkpoints import moco, trunk
from transfer.config.initial_weights import weights_facts
from transfer.config.lint import ERROR, NAMES, lint
from transfer.config.load import load_config
from transfer.convert.convert import convert
from transfer.data.generated import CLASS_NAMES
from transfer.tasks.inspect import inspect

CONFIGS = ROOT / "configs" / "transfer"
FILES = sorted(CONFIGS.rglob("*.yaml"))
FCN = CONFIGS / "voc" / "fcn_R_50_30k_moco.yaml"
C4 = CONFIGS / "voc" / "faster_rcnn_R_50_C4_24k.yaml"
C4_MOCO = CONFIGS / "voc" / "faster_rcnn_R_50_C4_24k_moco.yaml"
DC5 = CONFIGS / "voc" / "faster_rcnn_R_50_DC5_24k_moco.yaml"
FPN = CONFIGS / "coco" / "mask_rcnn_R_50_FPN_1x_moco.yaml"
MAPS = (
    "name: generated_sem_seg\nformat: semantic\nroot: .\n"
    "splits: {train: {images: a, labels: b}, val: {images: a, labels: b}}"
    f"\nclasses: {['background', *CLASS_NAMES]}\n"
)
SPEC = f"name: generated\nformat: voc\nroot: .\nyear: 2007\nsplits: [trainval, test]\nclasses: {[*CLASS_NAMES]}\n"
COCO = (
    "name: generated_coco\nformat: coco\nroot: .\n"
    "splits: {train: {images: a, annotations: a.json}, val: {images: a, annotations: b.json}}\n"
    f"classes: {[*CLASS_NAMES]}\n"
)
MSRA = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_projects_configs_have_no_errors(path, tmp_path):
    """The papers' rows no warnings either, nor the small ones; the demo has its own rate and data.

    LVIS' classes stand in its json alone, which is not here, and its supervised baseline has frozen norms.
    """
    (tmp_path / "voc.yaml").write_text(SPEC)
    (tmp_path / "semantic.yaml").write_text(MAPS)
    (tmp_path / "coco.yaml").write_text(COCO)
    paths = tuple(str(tmp_path / f"{name}.yaml") for name in ("voc", "semantic", "coco"))
    specs = ["DATASETS.SPECS", str(paths)] if "demo" in path.stem else []
    findings = inspect(load_config(path, specs), None)
    assert not [str(f) for f in findings if f.level == ERROR]
    allowed = {"learning-rate", "data"} if "demo" in path.stem else {"data"} if path.parent.name == "lvis" else set()
    assert {f.code for f in findings} <= allowed | ({"frozen-bn", "freeze-at"} if "frozen" in path.stem else set())


R50_MOCO = {
    "arch": "resnet50", "depth": 50, "groups": 1, "width_per_group": 64, "stem_out_channels": 64,
    "res2_out_channels": 256, "channel_order": "RGB", "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375], "stride_in_1x1": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "opts", "expected"),
    [
        (C4_MOCO, [], []),
        (C4_MOCO, ["MODEL.BACKBONE.FREEZE_AT", "2"], ["warning freeze-at: freezes the stem, res2;"]),
        (C4_MOCO, ["MODEL.RESNETS.NORM", "FrozenBN"], ["warning frozen-bn: papers train every norm"]),
        (C4_MOCO, ["MODEL.RESNETS.NORM", "SyncBN"], ["warning sync-bn: naiveSyncBN"]),
        (C4_MOCO, ["MODEL.RESNETS.NORM", "SynkBN"], ["error norm: did you mean SyncBN"]),
        (FPN, ["MODEL.FPN.NORM", "''"], ["warning fpn-norm: NaN: set it to naiveSyncBN"]),
        (FPN, ["MODEL.FPN.NORM", "FrozenBN"], ["warning frozen-bn: not tuned"]),
        (C4_MOCO, ["MODEL.FPN.NORM", "FrozenBN"], []),  # nothing reads it
        (C4_MOCO, ["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], ["warning extra-norm: Res5ROIHeadsExtraNorm"]),
        (C4_MOCO, ["MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.META_ARCHITECTURE", "RetinaNet"], []),
        (C4_MOCO, ["MODEL.ROI_HEADS.NAME", "Res5ROIHeadsXtraNorm"], ["error name: mean Res5ROIHeadsExtraNorm"]),
        (C4_MOCO, ["MODEL.BACKBONE.NAME", "vit"], ["error name: known are build_any_width_resnet_backbone, "]),
        (FPN, ["MODEL.ROI_BOX_HEAD.NUM_CONV", "4", "MODEL.ROI_BOX_HEAD.NUM_FC", "1", "MODEL.ROI_BOX_HEAD.NORM",
               "SyncBN"], ["warning box-head: another detector than the papers' Table 5"]),
        (FPN, ["MODEL.ROI_MASK_HEAD.NORM", "BN"], ["warning mask-head: no norm"]),
        (DC5, ["MODEL.RESNETS.RES5_DILATION", "1"], ["error dilation: dilated conv5: 2"]),
        (DC5, ["MODEL.BACKBONE.NAME", "build_resnet_backbone"], ["warning dilation: lacks the 3x3 convolution"]),
        (C4_MOCO, ["MODEL.RESNETS.RES5_DILATION", "2"], ["error dilation: set it to 1"]),
        (FPN, ["MODEL.RESNETS.RES5_DILATION", "2"], ["error dilation: set it to 1"]),
        (C4_MOCO, ["INPUT.FORMAT", "BGR"], ["error mean-order: is in the order RGB, but INPUT.FORMAT is BGR"]),
        (C4, ["INPUT.FORMAT", "RGB"], ["error mean-order: set it to [123.675, 116.28, 103.53]"]),
        (C4_MOCO, ["SOLVER.MAX_ITER", "20000"], ["error steps: (22000,) would never come"]),
        (C4_MOCO, ["SOLVER.STEPS", "(22000, 18000)"], ["error steps: must rise"]),
        (C4_MOCO, ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", "20000"], []),
        (C4_MOCO, ["SOLVER.WARMUP_ITERS", "24001"], ["error warm-up: is more than SOLVER.MAX_ITER 24000"]),
        (C4_MOCO, ["SOLVER.IMS_PER_BATCH", "8"], ["warning learning-rate: gives 0.01. For another batch"]),
        (C4_MOCO, ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.01"], []),
    ],
)  # fmt: skip
def test_what_the_config_alone_tells(path, opts, expected):
    found = inspect(load_config(path, opts), None)
    assert len(found) == len(expected)
    for finding, text in zip(found, expected, strict=True):
        head, message = text.split(": ", 1)
        assert head == f"{finding.level} {finding.code}" and message in finding.message


@pytest.mark.parametrize(
    ("path", "opts", "codes"),
    [
        (C4_MOCO, [], []),
        (C4, [], ["stride", "channel-order", "std"]),  # MoCo weights in the supervised config
        (C4_MOCO, ["INPUT.FORMAT", "BGR"], ["channel-order"]),  # mean and std are the weights' own
        (
            C4,
            ["MODEL.RESNETS.STRIDE_IN_1X1", "False", "MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"],
            ["channel-order", "mean", "std"],
        ),
        (C4_MOCO, ["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"], ["std"]),
        (C4_MOCO, ["MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"], ["mean"]),
        (C4_MOCO, ["MODEL.RESNETS.STRIDE_IN_1X1", "True"], ["stride"]),
        (C4_MOCO, ["MODEL.RESNETS.DEPTH", "101"], ["architecture"]),
        (C4_MOCO, ["MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"], ["architecture"] * 2),
    ],
)
def test_weights_that_disagree_are_errors(path, opts, codes):
    found = lint(load_config(path, opts), R50_MOCO)
    assert [f.code for f in found] == codes and all(f.level == ERROR for f in found)
    assert all("set it" in f.message for f in found)


def test_every_field_of_the_facts_may_be_unknown():
    (found,) = lint(load_config(C4), {})
    assert (found.level, found.code) == ("warning", "weights-facts")
    assert [f.code for f in lint(load_config(C4), {"depth": 18})] == ["architecture", "weights-facts"]


def test_a_sampler_that_repeats_nothing():
    lvis = ROOT / "configs" / "transfer" / "lvis" / "mask_rcnn_R_50_FPN_1x_moco.yaml"
    assert "repeat-threshold" not in {f.code for f in inspect(load_config(lvis), None)}
    found = inspect(load_config(lvis, ["DATALOADER.REPEAT_THRESHOLD", "0.0"]), None)
    assert [(f.level, f.key) for f in found if f.code == "repeat-threshold"] == [
        ("error", "DATALOADER.REPEAT_THRESHOLD")
    ]


@pytest.mark.parametrize(
    "opts",
    [
        ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"],
        ["DATALOADER.RANDOM_SUBSET_RATIO", "0.1"],
    ],
)
@pytest.mark.parametrize("config", [C4, FCN], ids=["boxes", "maps"])
def test_half_of_a_subset(config, opts):
    found = [f for f in inspect(load_config(config, opts), None) if f.code == "subset"]
    assert [(f.level, f.key) for f in found] == [("error", "DATALOADER.RANDOM_SUBSET_RATIO")]
    both = ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "DATALOADER.RANDOM_SUBSET_RATIO", "0.1"]
    assert not {"subset", "samples"} & {f.code for f in inspect(load_config(config, both), None)}


def test_class_counts():
    found = inspect(load_config(C4, ["DATASETS.TEST", "('coco_2017_val', 'gone_val')"]), None)
    assert [(f.level, f.code) for f in found] == [("error", "data"), ("error", "classes"), ("error", "class-names")]
    assert "'gone_val' is not among the built-in sets" in found[0].message
    assert "NUM_CLASSES is 20, but data set 'coco_2017_val' has 80 classes" in found[1].message


def test_a_set_that_is_not_here_is_no_error(tmp_path):
    """Its classes cannot be checked before it is; training refuses it itself."""
    (tmp_path / "s.yaml").write_text(
        "name: s\nformat: coco\nroot: .\nsplits:\n  test: {images: i, annotations: a.json}\n"
    )
    opts = ["DATASETS.SPECS", f"('{tmp_path}/s.yaml',)", "DATASETS.TEST", "('s_test',)"]
    (found,) = inspect(load_config(C4, opts), None)
    assert (found.level, found.code) == ("warning", "data") and "classes not checked" in found.message


def test_facts_of_the_model_zoo():
    assert weights_facts("") is None and weights_facts("https://example.org/x.pkl") == {}
    assert lint(load_config(C4), weights_facts(MSRA)) == []
    codes = [f.code for f in lint(load_config(C4_MOCO), weights_facts(MSRA))]
    assert codes == ["stride", "channel-order", "std"]
    assert lint(load_config(C4_MOCO), weights_facts(MSRA.replace("MSRA", "torchvision"))) == []
    x101 = weights_facts("detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl")
    wider = ["MODEL.RESNETS.DEPTH", "101", "MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"]
    wider += ["MODEL.RESNETS.STRIDE_IN_1X1", "False", "MODEL.PIXEL_STD", "[57.375, 57.120, 58.395]"]
    assert lint(load_config(C4, wider), x101) == []


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_facts_of_converted_files(tmp_path, suffix):
    torch.save(moco(trunk(50)), tmp_path / "moco.pth.tar")
    convert(tmp_path / "moco.pth.tar", tmp_path / f"r50{suffix}")
    facts = weights_facts(str(tmp_path / f"r50{suffix}"))
    assert {key: facts[key] for key in R50_MOCO} == R50_MOCO
    assert lint(load_config(C4_MOCO), facts) == []


def test_facts_of_other_files(tmp_path):
    """Detectron2's torchvision file by its author, one without an author by its tensors only, a detector not at all."""
    torch.save(trunk(18), tmp_path / "r18.pth")
    convert(tmp_path / "r18.pth", tmp_path / "r18.pkl")
    content = pickle.loads((tmp_path / "r18.pkl").read_bytes())
    for author, metadata, order in (("torchvision", None, "RGB"), ("somebody", None, None)):
        content |= {"__author__": author, "metadata": metadata}
        (tmp_path / "edited.pkl").write_bytes(pickle.dumps(content))
        facts = weights_facts(str(tmp_path / "edited.pkl"))
        assert facts["depth"] == 18 and facts["res2_out_channels"] == 64 and facts.get("channel_order") == order
    detector = {f"backbone.{k}": v for k, v in content["model"].items()}
    (tmp_path / "detector.pkl").write_bytes(pickle.dumps({"model": detector}))
    assert weights_facts(str(tmp_path / "detector.pkl")) == {}


def test_a_file_that_no_engine_loads_is_refused(tmp_path):
    """The linter says it before a training does: a checkpoint that was not converted, and torchvision's forms."""
    source = tmp_path / "moco.pth.tar"
    torch.save(moco(trunk(18)), source)
    files = [source, tmp_path / "r18.pth", tmp_path / "r18.safetensors"]
    for file in files[1:]:
        convert(source, file, names="torchvision")
    for file in files:
        with pytest.raises(CheckpointError, match="is not written for Detectron2 .*; convert it with"):
            weights_facts(str(file))


@pytest.mark.d2
def test_the_names_are_detectron2s():
    """Everything registered in the installed Detectron2 is listed, and what its user registers counts."""
    from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

    from transfer.engines.d2.engine import Detectron2Engine
    from transfer.engines.d2.names import _REGISTRIES

    class MyHeads(StandardROIHeads):
        pass

    engine = Detectron2Engine()
    cfg = load_config(FPN, ["MODEL.ROI_HEADS.NAME", "MyHeads"], engine.defaults())
    # what DensePose's project has registered, if a test before has imported it, is not Detectron2's
    beside = {n for parts in _REGISTRIES.values() for n, part in parts if part.__module__.startswith("densepose")}
    for key, known in engine.part_names().items():
        assert set(known) - (beside - set(NAMES[key])) == set(NAMES[key]), key
    assert engine.part_names().keys() == NAMES.keys()
    assert [f.code for f in inspect(cfg, None, engine.part_names())] == ["name"]
    ROI_HEADS_REGISTRY.register(MyHeads)
    try:
        assert inspect(cfg, None, engine.part_names()) == []
    finally:
        del ROI_HEADS_REGISTRY._obj_map["MyHeads"]


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        ([], []),
        (["SOLVER.BASE_LR", "0.01"], []),  # Cityscapes' rate
        (["SOLVER.BASE_LR", "0.02"], ["warning learning-rate: rule (0.003 or 0.01 for 16, linear)"]),
        (["MODEL.RESNETS.RES5_DILATION", "1"], ["warning dilation: 1 makes maps of stride 32"]),
        (["INPUT.CROP.ENABLED", "False"], ["warning crop: crop 513 or 769"]),
        (["INPUT.CROP.TYPE", "relative_range"], ["error crop: TYPE relative_range"]),
        (["INPUT.CROP.SIZE", "[0.9, 0.9]"], ["error crop: SIZE [0.9, 0.9]"]),
        (["INPUT.RANDOM_SCALE", "(1.0, 1.0)"], ["warning scale: (1.0, 1.0); the papers scale by 0.5 to 2.0"]),
        (["INPUT.MIN_SIZE_TEST", "800"], ["warning test-size: 800 resizes"]),
        (["MODEL.SEM_SEG_HEAD.NORM", "''"], ["warning head-norm: two new convolutions"]),
        (["INPUT.CROP.SIZE", "[513, 1000000]"], ["error crop: at most 32768"]),
        (["INPUT.FORMAT", "YUV-BT.601"], ["error samples: set it to RGB or BGR"]),
        (["INPUT.RANDOM_FLIP", "vertical"], ["error samples: set it to horizontal or none"]),
        (
            ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
            ["error samples: TrainingSampler or RandomSubset"],
        ),
        (
            ["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "INPUT.CROP.SIZE", "[0.9, 0.9]"],
            ["warning head: not the papers' head", "error crop: in whole pixels"],
        ),
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "SOLVER.BASE_LR", "0.02"], ["warning scale: has no effect"]),
        (["MODEL.SEM_SEG_HEAD.NAME", "FCN16Head"], ["warning head: FCN16Head", "error name: did you mean FCN16sHead"]),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res4']"], ["error features: ['res4']"]),
        (["MODEL.BACKBONE.FREEZE_AT", "2"], ["warning freeze-at: the papers tune all layers"]),
        (["DATASETS.TEST", "('voc_2007_test',)"], ["error data: is scored by voc07, none of which scores the task"]),
    ],
)
def test_semantic_segmentation(opts, expected):
    findings = {f"{f.level} {f.code}": f.message for f in inspect(load_config(FCN, opts), None) if f.level == ERROR
                or f.code != "data"}  # fmt: skip
    assert set(findings) == {line.partition(":")[0] for line in expected}
    for line in expected:
        code, _, words = line.partition(": ")
        assert words in findings[code]
