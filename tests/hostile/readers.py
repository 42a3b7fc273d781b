"""Per reader the command, and the one file that it reads which is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.hostile.tree import EXPERIMENT, FOLDER, KNN, OUT, PRE, PROBE, TUNE, TV, Reader, detector

COPIED = (("exp/out", "out/exp"),)


def _first(folder: str, suffix: str, root: Path) -> str:
    return str(sorted((root / folder).rglob(f"*{suffix}"))[0].relative_to(root))


def readers(root: Path) -> list[Reader]:
    """All of them, for a tree that `build` has written."""
    iconic, scene = _first("set/iconic/train", ".jpg", root), _first("set/scenes/JPEGImages", ".jpg", root)
    xml, ids = _first("set/scenes/Annotations", ".xml", root), _first("set/cityscapes/gtFine/val", ".png", root)
    city, label = (
        _first("set/cityscapes/leftImg8bit/val", ".png", root),
        _first("set/scenes/SemanticMaps", ".png", root),
    )
    tested = f"set/scenes/JPEGImages/{Path(_tested(root)).name}"
    row, run = "out/exp/rows/torchvision/moco-v2", "out/exp/rows/torchvision/moco-v2/seed_1"
    text = f"voctext/{sorted((root / 'voctext').iterdir())[0].name}"
    detect = detector("MODEL.WEIGHTS", "{}/runs/det/model_final.pth", *OUT)
    resumed = (("runs/det", "out/run"),)

    def check(name: str) -> tuple[str, ...]:
        return ("--spec", f"{{}}/set/{name}.yaml")

    def group(
        tool: str, words: Sequence[str], *targets: tuple[str, str], copied: tuple[tuple[str, str], ...] = ()
    ) -> list[Reader]:
        return [Reader(tool, target, kind, tuple(words), copied) for target, kind in targets]

    return [
        *group(
            "check_dataset",
            check("voc"),
            (scene, "image"),
            (xml, "xml"),
            ("set/scenes/ImageSets/Main/test.txt", "list"),
            ("set/voc.yaml", "yaml"),
        ),
        *group(
            "check_dataset",
            check("coco"),
            ("set/coco/instances_val.json", "json"),
            ("set/coco.yaml", "yaml"),
            (scene, "image"),
        ),
        *group(
            "check_dataset", check("keypoints"), ("set/coco/keypoints_val.json", "json"), ("set/keypoints.yaml", "yaml")
        ),
        *group("check_dataset", check("lvis"), ("set/lvis/lvis_val.json", "json"), ("set/lvis.yaml", "yaml")),
        *group("check_dataset", check("cityscapes"), (ids, "image"), (city, "image"), ("set/cityscapes.yaml", "yaml")),
        *group(
            "check_dataset",
            check("semantic"),
            (label, "image"),
            ("set/semantic.yaml", "yaml"),
            ("set/scenes/ImageSets/Main/test.txt", "list"),
        ),
        *_imports(group, xml),
        *group("train_moco", (*PRE, *FOLDER, *OUT), (iconic, "image"), ("pre.yaml", "yaml")),
        *group("train_moco", (*PRE, *FOLDER, *OUT, "DATA.CACHE", "1"), (iconic, "image")),
        *group("train_moco", (*PRE, "DATA.TRAIN", "{}/set/list.txt", *OUT), ("set/list.txt", "list")),
        *group("train_moco", (*PRE, "DATA.TRAIN", "{}/set/in-0.tar", *OUT), ("set/in-0.tar", "shard")),
        *group(
            "train_moco",
            (*PRE, *FOLDER, *OUT, "MODEL.WEIGHTS", "{}/runs/pre/checkpoint_last.pth.tar"),
            ("runs/pre/checkpoint_last.pth.tar", "checkpoint"),
        ),
        *group(
            "train_moco",
            (*PRE[:-2], "--resume", "auto", *FOLDER, *OUT),
            ("out/run/checkpoint_last.pth.tar", "checkpoint"),
            ("out/run/result.json", "json"),
            ("out/run/metrics.jsonl", "json"),
            copied=(("runs/pre", "out/run"),),
        ),
        *group(
            "linear_eval",
            (*PROBE, *OUT),
            ("moco.pth.tar", "checkpoint"),
            ("set/train.txt", "list"),
            ("probe.yaml", "yaml"),
            (iconic, "image"),
        ),
        *group(
            "linear_eval",
            (*PROBE, *OUT, "DATA.TRAIN", "{}/set/train.json", "DATA.VAL", "{}/set/val.json"),
            ("set/train.json", "json"),
        ),
        *group(
            "knn_eval",
            (*KNN, "--output-dir", "{}/out/run"),
            ("moco.pth.tar", "checkpoint"),
            ("set/val.txt", "list"),
            (iconic, "image"),
        ),
        *group(
            "knn_eval",
            (*KNN, "--output-dir", "{}/out/run"),
            ("out/run/features/train.json", "json"),
            ("out/run/features/train.features.npy", "arrays"),
            ("out/run/features/train.labels.npy", "arrays"),
            copied=(("runs/knn", "out/run"),),
        ),
        *group("finetune", (*TUNE, *OUT), ("moco.pth.tar", "checkpoint"), ("probe.yaml", "yaml")),
        *group(
            "finetune",
            (*TUNE, "--resume", "auto", *OUT),
            ("out/run/checkpoint_last.pth.tar", "checkpoint"),
            copied=(("runs/tune", "out/run"),),
        ),
        *group("convert-pretrain-to-detectron2", ("{}/moco.pth.tar", "{}/out/a.pkl"), ("moco.pth.tar", "checkpoint")),
        *group("convert-pretrain-to-detectron2", ("{}/trunk.pkl", "{}/out/a.pth"), ("trunk.pkl", "checkpoint")),
        *group(
            "convert-pretrain-to-detectron2",
            ("{}/trunk.safetensors", "{}/out/a.pkl"),
            ("trunk.safetensors", "checkpoint"),
        ),
        *group("inspect_checkpoint", ("{}/moco.pth.tar",), ("moco.pth.tar", "checkpoint")),
        *group("inspect_checkpoint", ("--diff", "{}/trunk.pth", "{}/trunk.pkl"), ("trunk.pkl", "checkpoint")),
        *group(
            "lint_config",
            _lint(),
            ("detector.yaml", "yaml"),
            ("set/voc.yaml", "yaml"),
            ("trunk.pkl", "checkpoint"),
            (xml, "xml"),
        ),
        *group(
            "train_net",
            ("--eval-only", *detect),
            ("runs/det/model_final.pth", "checkpoint"),
            ("set/voc.yaml", "yaml"),
            (tested, "image"),
            ("detector.yaml", "yaml"),
        ),
        *group(
            "train_net",
            ("--resume", *detector("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", *OUT)),
            ("out/run/last_checkpoint", "list"),
            ("out/run/config.yaml", "yaml"),
            ("out/run/begun.json", "json"),
            ("out/run/resumed.json", "json"),
            copied=resumed,
        ),
        *group(
            "predict",
            ("--weights", "{}/runs/det/model_final.pth", f"{{}}/{tested}", "--output-dir", "{}/out/run", *TV),
            ("runs/det/model_final.pth", "checkpoint"),
            ("runs/det/config.yaml", "yaml"),
            ("runs/det/result.json", "json"),
            (tested, "image"),
        ),
        *group(
            "export",
            ("--weights", "{}/runs/det/model_final.pth", "--image", f"{{}}/{tested}", "--output", "{}/out/model.onnx"),
            ("runs/det/model_final.pth", "checkpoint"),
            ("runs/det/config.yaml", "yaml"),
            ("runs/det/result.json", "json"),
            (tested, "image"),
        ),
        *group(
            "eval_predictions",
            ("{}/predictions.json", "--dataset", "generated_test", "--spec", "{}/set/voc.yaml"),
            ("predictions.json", "json"),
            ("set/voc.yaml", "yaml"),
        ),
        *group(
            "eval_predictions",
            ("{}/voctext", "--dataset", "generated_test", "--spec", "{}/set/voc.yaml"),
            (text, "list"),
        ),
        *group(
            "visualize",
            ("run", f"{{}}/{run}", "--output-dir", "{}/out/pictures", "--count", "2"),
            (f"{run}/predictions_generated_test.json", "json"),
            (f"{run}/config.yaml", "yaml"),
            (tested, "image"),
            copied=COPIED,
        ),
        *group(
            "reproduce",
            (*EXPERIMENT, "--dry-run"),
            ("exp/table.yaml", "yaml"),
            (f"{run}/stage.json", "json"),
            copied=COPIED,
        ),
        *group(
            "make_report",
            EXPERIMENT,
            (f"{run}/summary_generated_test.safetensors", "checkpoint"),
            (f"{run}/result.json", "json"),
            (f"{row}/trials.json", "json"),
            (f"{run}/metrics.jsonl", "json"),
            (f"{run}/predictions_generated_test.json", "json"),
            (f"{run}/stage.json", "json"),
            ("out/exp/converted/moco/trunk.pkl.json", "json"),
            ("out/exp/converted/moco/trunk.pkl", "checkpoint"),
            ("out/exp/pretrain/moco/result.json", "json"),
            ("out/exp/rows/torchvision/supervised-in-1m/seed_2/failed.json", "json"),
            (tested, "image"),
            ("exp/table.yaml", "yaml"),
            copied=COPIED,
        ),
        *group(
            "status",
            ("{}/out/exp",),
            (f"{run}/result.json", "json"),
            (f"{run}/metrics.jsonl", "json"),
            (f"{run}/config.yaml", "yaml"),
            (f"{run}/stage.json", "json"),
            (f"{run}/log.txt", "list"),
            copied=COPIED,
        ),
        *group(
            "compare",
            ("{}/exp/table.yaml", "--output-dirs", "{}/out/exp", "{}/exp/out", "--engines", TV[-1], TV[-1]),
            (f"{run}/result.json", "json"),
            (f"{row}/trials.json", "json"),
            (f"{run}/metrics.jsonl", "json"),
            copied=COPIED,
        ),
        *group(
            "compare_schedules",
            ("{}/exp/table.yaml", "{}/exp/table.yaml", "--output-dirs", "{}/out/exp", "{}/out/exp", *TV),
            (f"{run}/result.json", "json"),
            copied=COPIED,
        ),
    ]


def _imports(group: Callable[..., list[Reader]], xml: str) -> list[Reader]:
    """What reads the annotations of other tools."""
    tool, to = "../datasets/import_annotations", ("--output", "{}/out/imported")
    apart = ("--shares", "a=0.5", "b=0.5")
    return [
        *group(
            tool,
            ("labelme", "{}/imports/labelme", *to, *apart),
            ("imports/labelme/ann/b.json", "json"),
            ("imports/labelme/a.jpg", "image"),
        ),
        *group(tool, ("via", "{}/imports/via/via.json", *to), ("imports/via/via.json", "json")),
        *group(tool, ("via", "{}/imports/via/via.csv", *to), ("imports/via/via.csv", "list")),
        *group(
            tool,
            ("yolo", "{}/imports/yolo/data.yaml", *to),
            ("imports/yolo/data.yaml", "yaml"),
            ("imports/yolo/train/labels/a.txt", "list"),
        ),
        *group(tool, ("voc", "{}/imports/xml", *to), ("imports/xml/a.xml", "xml")),
        *group(
            "../datasets/make_splits",
            ("{}/out/coco/instances_val.json", *apart),
            ("out/coco/instances_val.json", "json"),
            copied=(("set/coco", "out/coco"),),
        ),
        *group(
            "../datasets/make_splits",
            ("{}/out/scenes", *apart),
            (xml.replace("set/", "out/", 1), "xml"),
            copied=(("set/scenes", "out/scenes"),),
        ),
    ]


def _lint() -> tuple[str, ...]:
    words = [word for word in detector()[2:] if word not in TV]
    return ("{}/detector.yaml", *words, "MODEL.WEIGHTS", "{}/trunk.pkl", *TV)


def _tested(root: Path) -> str:
    return (root / "set" / "scenes" / "ImageSets" / "Main" / "test.txt").read_text().split()[0] + ".jpg"
