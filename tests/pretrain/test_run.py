"""Whole runs: what they leave behind, how they go on, what they refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.run import build_model, main
from pretrain.runtime import checkpoint
from pretrain.runtime.checkpoint import CheckpointError
from pretrain.runtime.commands import status
from pretrain.runtime.config import ConfigError
from pretrain.runtime.log import read_metrics
from pretrain.runtime.result import RunResult
from tests.pretrain.conftest import NARROW, ROOT, MakeCfg, write_images
from tests.processes import Tool, run_tool

Finished = tuple[CfgNode, RunResult]


def test_a_run_leaves_result_metrics_config_and_checkpoints(finished: Finished) -> None:
    cfg, result = finished
    folder = Path(cfg.OUTPUT_DIR)
    assert RunResult.load(folder) == result
    assert (result.kind, result.engine, result.iterations, result.seed) == ("pretrain", "pretrain", 20, 0)
    assert 0 < result.metrics["loss"] < 10 and 0 <= result.metrics["acc1"] <= 100
    assert result.metrics["images_per_second"] > 0 and result.metrics["skipped"] == 0
    assert all((folder / path).is_file() for path in result.artifacts.values())
    assert (folder / "checkpoint_0000.pth.tar").is_file() and (folder / "checkpoint_0001.pth.tar").is_file()
    assert [line["iteration"] for line in read_metrics(folder / "metrics.jsonl")] == list(range(1, 20, 2))
    assert not list(folder.glob("*.tmp"))


def test_checkpoint_has_the_references_layout(finished: Finished) -> None:
    saved = checkpoint.load(Path(finished[0].OUTPUT_DIR) / "checkpoint_last.pth.tar")
    assert {"epoch", "arch", "state_dict", "optimizer"} < saved.keys()
    assert (saved["epoch"], saved["arch"], saved["iteration"]) == (2, NARROW, 20)
    assert all(name.startswith("module.") for name in saved["state_dict"])
    assert saved["state_dict"]["module.queue_ptr"].tolist() == [20 * 8 % 32]


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    finished: Finished, images: Path, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    opts = ["CHECKPOINT.PERIOD", "7", "DATA.NUM_WORKERS", "2", "MODEL.ARCH", NARROW]
    words = ["--config-file", ROOT / "configs/pretrain/tiny_moco_v2_R_18.yaml", "OUTPUT_DIR", folder]
    process = Tool(ROOT / "tools" / "train_moco.py", "--resume", "auto", *words, "DATA.TRAIN", images, *opts)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint_last.pth.tar").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    (folder / ".checkpoint_last.pth.tar.x1y2z3_4.tmp").write_text("half")
    assert checkpoint.load(folder / "checkpoint_last.pth.tar")["iteration"] == 7  # an epoch has 10

    result = main(make_cfg(images, folder, *opts), resume="auto")

    cfg, uninterrupted = finished
    a, b = (checkpoint.load(Path(f) / "checkpoint_last.pth.tar") for f in (folder, cfg.OUTPUT_DIR))
    for name, value in b["state_dict"].items():
        assert torch.equal(a["state_dict"][name], value), name
    for index, entry in b["optimizer"]["state"].items():
        assert torch.equal(a["optimizer"]["state"][index]["momentum_buffer"], entry["momentum_buffer"])
    assert result.metrics["loss"] == uninterrupted.metrics["loss"]
    assert result.config_digest == uninterrupted.config_digest
    ours, theirs = (read_metrics(Path(f) / "metrics.jsonl") for f in (folder, cfg.OUTPUT_DIR))
    assert [(x["iteration"], x["loss"], x["acc1"]) for x in ours] == [
        (x["iteration"], x["loss"], x["acc1"]) for x in theirs
    ]
    assert not list(folder.glob(".*.tmp"))


def test_finished_run_is_not_repeated(finished: Finished) -> None:
    cfg, result = finished
    before = os.stat(Path(cfg.OUTPUT_DIR) / "checkpoint_last.pth.tar").st_mtime_ns
    assert main(cfg, resume="auto") == result and main(cfg, resume="yes") == result
    assert os.stat(Path(cfg.OUTPUT_DIR) / "checkpoint_last.pth.tar").st_mtime_ns == before


def test_existing_checkpoint_is_not_overwritten(finished: Finished) -> None:
    with pytest.raises(ConfigError, match="exists; continue it with --resume, or choose another OUTPUT_DIR"):
        main(finished[0])


def test_nothing_to_resume(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume: .* leave --resume out, or use --resume auto"):
        main(make_cfg(images, tmp_path / "new"), resume="yes")


def test_another_recipe_seed_or_data_does_not_continue(
    finished: Finished, images: Path, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    folder = Path(finished[0].OUTPUT_DIR)
    other = write_images(tmp_path / "other", 9)
    for cfg, message in [
        (make_cfg(images, folder, "SOLVER.BASE_LR", 0.06), "SOLVER.BASE_LR was 0.03, is 0.06"),
        (make_cfg(images, folder, "SEED", 1), "SEED was 0, is 1"),
        (make_cfg(other, folder), "DATA.TRAIN names other images"),
    ]:
        with pytest.raises(ConfigError) as caught:
            main(cfg, resume="auto")
        assert "belongs to another run: " + message in str(caught.value)
    assert (folder / "result.json").is_file()


def test_reference_checkpoint_starts_a_run_but_does_not_continue_one(
    finished: Finished, images: Path, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    saved = checkpoint.load(Path(finished[0].OUTPUT_DIR) / "checkpoint_last.pth.tar")
    theirs = {key: saved[key] for key in ("epoch", "arch", "state_dict", "optimizer")}
    checkpoint.save(theirs, tmp_path / "run" / "checkpoint_last.pth.tar")
    with pytest.raises(CheckpointError, match="neither RNG nor position .* MODEL.WEIGHTS"):
        main(make_cfg(images, tmp_path / "run"), resume="yes")

    model = build_model(make_cfg(images, tmp_path, "MODEL.WEIGHTS", tmp_path / "run" / "checkpoint_last.pth.tar"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved["state_dict"]["module." + name])


def test_a_checkpoint_without_its_queue_is_not_continued(
    finished: Finished, images: Path, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    saved = checkpoint.load(Path(finished[0].OUTPUT_DIR) / "checkpoint_last.pth.tar")
    del saved["state_dict"]["module.queue"]
    checkpoint.save(saved, tmp_path / "checkpoint_last.pth.tar")
    with pytest.raises(CheckpointError, match="is not whole: queue is missing; restore the file"):
        main(make_cfg(images, tmp_path), resume="yes")


def test_weights_of_the_query_encoder_alone_are_enough(finished: Finished, images: Path, make_cfg: MakeCfg) -> None:
    folder = Path(finished[0].OUTPUT_DIR)
    state = checkpoint.load(folder / "checkpoint_last.pth.tar")["state_dict"]
    queries = {name: value for name, value in state.items() if "encoder_q." in name}
    checkpoint.save({"state_dict": queries}, folder / "queries.pth.tar")
    model = build_model(make_cfg(images, folder, "MODEL.WEIGHTS", folder / "queries.pth.tar"))
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(q, k)
    assert torch.equal(model.encoder_q.get_parameter("conv1.weight"), state["module.encoder_q.conv1.weight"])


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ("MODEL.MLP", False),
            "does not fit MODEL.ARCH, DIM, K and MLP of this config: encoder_q.fc.weight is missing",
        ),
        (("MODEL.K", 64), r"queue is \(16, 32\), the model's \(16, 64\)"),
    ],
)
def test_weights_that_do_not_fit(
    opts: tuple[object, ...], message: str, finished: Finished, images: Path, make_cfg: MakeCfg
) -> None:
    weights = Path(finished[0].OUTPUT_DIR) / "checkpoint_last.pth.tar"
    with pytest.raises(CheckpointError, match=message):
        build_model(make_cfg(images, "unused", "MODEL.WEIGHTS", weights, *opts))  # type: ignore[arg-type]


def test_weights_that_are_no_moco_checkpoint(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    checkpoint.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "trunk.pth")
    checkpoint.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name, message in {
        "trunk.pth": "no encoder_q",
        "list.pth": "has no 'state_dict'",
        "text.pth": "cannot read checkpoint",
        "missing.pth": "cannot be read .No such file .*; check the path",
    }.items():
        with pytest.raises((CheckpointError, ConfigError), match=message):
            main(make_cfg(images, tmp_path / "run", "MODEL.WEIGHTS", tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_bad_images_skipped_are_counted_in_the_result(make_cfg: MakeCfg, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 16)
    (data / "class0" / "003.jpg").write_text("not an image")
    opts = ("SOLVER.EPOCHS", 1, "MODEL.DIM", 4, "DATA.NUM_WORKERS", 1)
    result = main(make_cfg(data, tmp_path / "skip", "DATA.ON_BAD_IMAGE", "skip", *opts))
    assert result.metrics["skipped"] >= 1 and "unreadable images replaced: 1" in " ".join(result.notes)


def tool(*args: object) -> subprocess.CompletedProcess[str]:
    return run_tool(ROOT / "tools" / "train_moco.py", *args, cwd=Path("/"))


def test_tool_prints_one_line_for_an_expected_error(make_cfg: MakeCfg, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 16)
    (data / "class0" / "003.jpg").write_text("not an image")
    tiny = ROOT / "configs/pretrain/tiny_moco_v2_R_18.yaml"
    done = tool("--config-file", tiny, "--output-dir", tmp_path / "run", "DATA.TRAIN", data, "DATA.NUM_WORKERS", 1)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot read image '{data}/class0/003.jpg'") and "DATA.ON_BAD_IMAGE skip" in last


def test_tool_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from train_moco import main as tool
    from train_moco import parse

    def parsed(*args: str) -> tuple[str, list[str]]:
        arguments = parse(["--config-file", "x.yaml", *args])
        return arguments.resume, arguments.opts

    assert parsed("SEED", "1") == ("no", ["SEED", "1"])
    assert parsed("--resume", "auto", "SEED", "1") == ("auto", ["SEED", "1"])
    assert parsed("--resume", "SEED", "1") == ("yes", ["SEED", "1"])
    assert parsed("SEED", "1", "--resume") == ("yes", ["SEED", "1"])
    assert parsed("--output-dir", "out", "SEED", "1") == ("no", ["SEED", "1", "OUTPUT_DIR", "out"])
    assert status(tool, ["--config-file", str(tmp_path / "no.yaml")]) == 2


def test_output_dir_that_cannot_be_made(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="OUTPUT_DIR .* cannot be written"):
        main(make_cfg(images, tmp_path / "file" / "run"))


def test_cuda_that_is_not_there(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="DEVICE is 'cuda', but torch sees no CUDA device; set DEVICE cpu or auto"):
        main(make_cfg(images, tmp_path / "run", "DEVICE", "cuda"))


def test_broken_result_and_unknown_resume(images: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ConfigError, match="result.json' is not a result of this version: .* delete it and run again"):
        main(make_cfg(images, tmp_path), resume="auto")
    with pytest.raises(ValueError, match="resume is True; it must be one of"):
        main(make_cfg(images, tmp_path), resume=True)  # type: ignore[arg-type]


def test_too_few_images_for_one_batch(make_cfg: MakeCfg, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 7 images, fewer than one batch"):
        main(make_cfg(write_images(tmp_path / "few", 7), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
