"""A trained detector runs on sets without objects or annotations, on both engines; nothing is trained against them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.architectures import ARCHITECTURES, options
from transfer.config.load import load_config
from transfer.data import catalog
from transfer.data.spec import DatasetError
from transfer.engines.select import select
from transfer.report import visualize

ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.d2)]
NAME = "R18-FPN-mask"
ONE = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0", "MODEL.RPN.POST_NMS_TOPK_TEST", "4"]


@pytest.fixture(params=["empty", "absent"])
def spec_file(request: pytest.FixtureRequest, generated: Path, tmp_path: Path) -> Path:
    """A set whose json has no annotations, or, as COCO's of test images, not even a list of them."""
    content = json.loads((generated / "coco" / "instances_val.json").read_text())
    content["annotations"] = []
    if request.param == "absent":
        del content["annotations"]
    (tmp_path / "bare.json").write_text(json.dumps(content))
    (tmp_path / "bare.yaml").write_text(
        "name: bare\nformat: coco\nroot: .\nsplits:\n"
        f"  test: {{images: {generated / 'scenes' / 'JPEGImages'}, annotations: bare.json}}\n"
    )
    return tmp_path / "bare.yaml"


@pytest.mark.parametrize("name", ENGINES)
def test_detections_are_kept_and_nothing_is_scored(name: str, spec_file: Path, generated: Path, tmp_path: Path) -> None:
    engine = select(name)

    def config(*opts: str):
        return load_config(
            ARCHITECTURES[NAME][0], [*options(NAME, generated, tmp_path), *ONE, *opts], engine.defaults()
        )

    engine.train(config("OUTPUT_DIR", str(tmp_path / "trained")))
    bare = ["DATASETS.TEST", "('bare_test',)", "DATASETS.SPECS", f"('{spec_file}', '{generated / 'coco.yaml'}')"]
    with pytest.raises(DatasetError, match="no object is annotated"):
        engine.train(config(*bare, "OUTPUT_DIR", str(tmp_path / "never")))
    weights = ["MODEL.WEIGHTS", str(tmp_path / "trained" / "model_final.pth")]
    result = engine.evaluate(config(*bare, *weights, "OUTPUT_DIR", str(tmp_path / "bare")))
    assert result.metrics == {} and any("detections are kept and not scored" in note for note in result.notes)
    (spec,) = catalog.resolve(["bare_test"], [spec_file])
    found = json.loads((tmp_path / "bare" / "predictions_bare_test.json").read_text())
    assert {d["image_id"] for d in found} <= {r["image_id"] for r in catalog.load(spec)}
    (picture,) = visualize.of_run(spec, tmp_path / "bare", 2, 0.0, tmp_path)
    assert picture.is_file()
