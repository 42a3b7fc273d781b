"""A tree of valid files, and the commands that read them."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.runtime import checkpoint, commands
from tests.architectures import options
from tests.conftest import ROOT
from tests.tools.test_errors import tool
from tests.transfer.convert.checkpoints import put, trunk
from tests.transfer.data.importers.sources import labelme_source, via_source, write_csv, yolo_source
from tests.transfer.report import trees
from transfer.convert.convert import convert
from transfer.data import catalog, generated
from transfer.engines import resume
from transfer.evaluation.predictions import load_coco_json, save_voc_text
from transfer.trials.output_folders import TRUNK

CONFIGS = ROOT / "configs"
SMALL = CONFIGS / "transfer" / "voc" / "faster_rcnn_R_18_C4_small_moco.yaml"
TV = ("--engine", "torchvision")


@dataclass(frozen=True)
class Reader:
    """A command, and one of its inputs.

    Attributes:
        tool: of `tools/`, without suffix.
        target: the file that is replaced, below the tree's root; of `corpus` kind `kind`.
        words: the command's, in which `{}` is the root.
        copied: folders that are copied before the target is replaced, (from, to): where a run goes on or writes.
    """

    tool: str
    target: str
    kind: str
    words: tuple[str, ...]
    copied: tuple[tuple[str, str], ...] = ()

    def argv(self, root: Path) -> list[str]:
        return [word.replace("{}", str(root)) for word in self.words]


def detector(*more: str) -> tuple[str, ...]:
    """The words of a small detector's config and options, then `more`."""
    opts = options("R18-C4", Path("{}/set"), Path("{}/runs"))
    del opts[opts.index("OUTPUT_DIR") : opts.index("OUTPUT_DIR") + 2]
    return ("--config-file", "{}/detector.yaml", *TV, *opts, *more)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PRE = _words(
    "--config-file {}/pre.yaml SOLVER.EPOCHS 1 AUG.CROP_SIZE 16 DATA.NUM_WORKERS 0 DATA.INDEX_DIR {}/out/index"
)
PROBE = _words(
    "--config-file {}/probe.yaml SOLVER.EPOCHS 1 SOLVER.STEPS () MODEL.WEIGHTS {}/moco.pth.tar "
    "DATA.TRAIN {}/set/train.txt DATA.VAL {}/set/val.txt AUG.CROP_SIZE 32 AUG.RESIZE 36 DATA.NUM_WORKERS 0"
)
TUNE = (*PROBE, *_words("MODEL.TRUNK free AUG.TRAIN True SOLVER.BATCH_SIZE 6"))
KNN = _words(
    "{}/moco.pth.tar --train {}/set/train.txt --val {}/set/val.txt -k 3 --crop-size 32 --num-workers 0 --device cpu"
)
FOLDER = ("DATA.TRAIN", "{}/set/iconic/train")
OUT = ("OUTPUT_DIR", "{}/out/run")
EXPERIMENT = ("{}/exp/table.yaml", "--output-dir", "{}/out/exp", *TV)

_RUNS = (
    Reader("train_moco", "", "", (*PRE[:-2], *FOLDER, "OUTPUT_DIR", "{}/runs/pre")),
    Reader("linear_eval", "", "", (*PROBE, "OUTPUT_DIR", "{}/runs/probe")),
    Reader("finetune", "", "", (*TUNE, "OUTPUT_DIR", "{}/runs/tune")),
    Reader("knn_eval", "", "", (*KNN, "--output-dir", "{}/runs/knn")),
    Reader("train_net", "", "", detector("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "OUTPUT_DIR", "{}/runs/det")),
)


def build(root: Path, trained: bool = True) -> None:
    """Writes a tree in which every reader's command ends well.

    Args:
        trained: run what must have run before, too: trainings of seconds, and a report.
    """
    generated.write(root / "set", seed=0, iconic_train=12, iconic_val=6, scenes_trainval=4, scenes_test=2)
    state = {k: v.half() if v.is_floating_point() else v for k, v in trunk(18).items()}
    torch.save({"epoch": 1, "arch": "resnet18", "state_dict": put("module.encoder_q.", state)}, root / "moco.pth.tar")
    for name in ("trunk.pkl", "trunk.pth", "trunk.safetensors"):
        convert(root / "moco.pth.tar", root / name)
    names = sorted(str(path.relative_to(root / "set")) for path in (root / "set" / "iconic").rglob("*.jpg"))
    for stem in ("train", "val"):
        chosen = [n for n in names if f"/{stem}/" in n]
        (root / "set" / f"{stem}.txt").write_text("".join(f"{n} c{i % 3}\n" for i, n in enumerate(chosen)))
        content = {
            "images": [{"id": i, "file_name": n} for i, n in enumerate(chosen)],
            "annotations": [{"image_id": i, "category_id": i % 3} for i in range(len(chosen))],
            "categories": [{"id": i, "name": f"c{i}"} for i in range(3)],
        }
        (root / "set" / f"{stem}.json").write_text(json.dumps(content))
    (root / "set" / "list.txt").write_text("".join(f"{n}\n" for n in names))
    with tarfile.open(root / "set" / "in-0.tar", "w") as tar:
        for n in names:
            tar.add(root / "set" / n, n)
    labelme_source(root / "imports" / "labelme")
    write_csv(via_source(root / "imports" / "via").with_name("via.csv"))
    yolo_source(root / "imports" / "yolo")
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        (root / "imports" / "xml").mkdir(exist_ok=True)
        first = sorted((root / "set" / "scenes" / folder).iterdir())[0]
        shutil.copy(first, root / "imports" / "xml" / f"a{suffix}")
    for name, file in (("pre", "tiny_moco_v2_R_18"), ("probe", "lincls_tiny"), ("detector", "")):
        text = f"_BASE_: {CONFIGS}/pretrain/{file}.yaml\nSEED: 1\n" if file else f"_BASE_: {SMALL}\nSEED: 3\n"
        (root / f"{name}.yaml").write_text(text)
    for reader in _RUNS if trained else ():
        done = commands.status(tool(reader.tool).main, reader.argv(root))
        assert done == 0, f"{reader.tool} {reader.argv(root)} ended with {done}"
    if trained:  # as of a run that went on with a longer schedule
        change = resume.Change(1, {"SOLVER.MAX_ITER": (1, 2)}, False)
        checkpoint.save_json([vars(change)], root / "runs" / "det" / resume.RECORD)
    _results(root, trained)


def _results(root: Path, trained: bool) -> None:
    """An experiment with results that are made up, and predictions of one."""
    experiment = trees.experiment_file(root / "exp", root / "set", trials=2)
    plan = trees.plan(experiment)
    trees.fill(plan)
    shutil.copy(root / "trunk.pkl", root / "exp" / "out" / "converted" / "moco" / TRUNK)
    for stage in plan.stages():
        stage.folder.mkdir(parents=True, exist_ok=True)
        (stage.folder / "stage.json").write_text(
            json.dumps({"inputs": {"seed": 1}, "outputs": {"result.json": "0" * 64}})
        )
    (trees.row_folder(plan, 0) / "seed_2" / "failed.json").write_text('{"error": "out of memory"}')
    spec = catalog.read_spec_file(root / "set" / "voc.yaml")[1]
    run = trees.row_folder(plan, 1) / "seed_1"
    found = load_coco_json(run / "predictions_generated_test.json", catalog.category_ids(spec))
    shutil.copy(run / "predictions_generated_test.json", root / "predictions.json")
    save_voc_text(root / "voctext", found, catalog.class_names(spec))
    if not trained:
        return
    for name in ("config.yaml", "log.txt"):
        shutil.copy(root / "runs" / "det" / name, run / name)
    done = commands.status(tool("make_report").main, [str(experiment), *TV])
    assert done == 0, f"make_report ended with {done}"
