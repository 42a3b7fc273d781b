"""YAML onto defaults: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.runtime.config import ConfigError, dotted_keys, load_yaml, merge_file, merge_opts, to_dict


@pytest.fixture
def cfg() -> CfgNode:
    return CfgNode({"SOLVER": {"BASE_LR": 0.03, "STEPS": (1, 2), "EPOCHS": 10}, "MODEL": {"MLP": False, "ARCH": "r50"}})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(cfg: CfgNode, path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        merge_file(cfg, path)
    return str(caught.value)


def test_bases_are_merged_underneath_relative_to_the_file(tmp_path: Path, cfg: CfgNode) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "base.yaml", "SOLVER: {BASE_LR: 0.1, EPOCHS: 5}\nMODEL: {ARCH: r18}")
    write(tmp_path / "sub" / "mid.yaml", "_BASE_: ../base.yaml\nSOLVER: {EPOCHS: 6}")
    merge_file(cfg, write(tmp_path / "top.yaml", "_BASE_: sub/mid.yaml\nMODEL: {MLP: True}"))
    assert to_dict(cfg) == {
        "SOLVER": {"BASE_LR": 0.1, "STEPS": [1, 2], "EPOCHS": 6},
        "MODEL": {"MLP": True, "ARCH": "r18"},
    }


def test_empty_file_changes_nothing(tmp_path: Path, cfg: CfgNode) -> None:
    before = to_dict(cfg)
    merge_file(cfg, write(tmp_path / "a.yaml", "# nothing\n"))
    assert to_dict(cfg) == before


def test_ints_become_floats_where_floats_are_meant(tmp_path: Path, cfg: CfgNode) -> None:
    merge_file(cfg, write(tmp_path / "a.yaml", "SOLVER: {BASE_LR: 1}"))
    assert isinstance(cfg.SOLVER.BASE_LR, float) and cfg.SOLVER.BASE_LR == 1
    merge_opts(cfg, ["SOLVER.BASE_LR", "2", "SOLVER.STEPS", "(3,)", "MODEL.ARCH", "r101"])
    assert isinstance(cfg.SOLVER.BASE_LR, float) and tuple(cfg.SOLVER.STEPS) == (3,) and cfg.MODEL.ARCH == "r101"


def test_duplicate_key(tmp_path: Path, cfg: CfgNode) -> None:
    message = refusal(cfg, write(tmp_path / "a.yaml", "SOLVER:\n  EPOCHS: 1\n  BASE_LR: 0.1\n  EPOCHS: 2\n"))
    assert "a.yaml: key 'EPOCHS' stands twice, on line 2 and line 4" in message


def test_missing_file_and_missing_base(tmp_path: Path, cfg: CfgNode) -> None:
    assert "does not exist; check the path" in refusal(cfg, tmp_path / "no.yaml")
    message = refusal(cfg, write(tmp_path / "a.yaml", "_BASE_: no/base.yaml"))
    assert f"'{tmp_path}/a.yaml' builds on _BASE_: 'no/base.yaml', but" in message
    assert "_BASE_ must be a file name" in refusal(cfg, write(tmp_path / "b.yaml", "_BASE_: [a.yaml]"))


def test_cycle_of_bases(tmp_path: Path, cfg: CfgNode) -> None:
    write(tmp_path / "a.yaml", "_BASE_: b.yaml")
    write(tmp_path / "b.yaml", "_BASE_: a.yaml")
    assert "is its own _BASE_" in refusal(cfg, tmp_path / "a.yaml")


def test_unknown_keys_name_the_nearest(tmp_path: Path, cfg: CfgNode) -> None:
    message = refusal(cfg, write(tmp_path / "a.yaml", "SOLVER: {EPOCH: 3}"))
    assert "a.yaml: unknown key 'SOLVER.EPOCH'; did you mean SOLVER.EPOCHS" in message
    with pytest.raises(ConfigError, match=r"command line: unknown key 'MLP'; did you mean MODEL.MLP\?"):
        merge_opts(cfg, ["MLP", "True"])


@pytest.mark.parametrize("text", ["SOLVER: {EPOCHS: many}", "SOLVER: {EPOCHS: 1.5}", "MODEL: {MLP: 1}", "SOLVER: 3"])
def test_types_do_not_change(tmp_path: Path, cfg: CfgNode, text: str) -> None:
    assert "a.yaml: " in refusal(cfg, write(tmp_path / "a.yaml", text))


def test_command_line_comes_in_pairs_of_fitting_type(cfg: CfgNode) -> None:
    for opts in (["SOLVER.EPOCHS", "3", "MODEL.MLP"], ["MODEL.MLP", "SOLVER.EPOCHS", "3"]):
        with pytest.raises(ConfigError, match="come in pairs KEY VALUE, but 'MODEL.MLP' has no value"):
            merge_opts(cfg, opts)
    with pytest.raises(ConfigError, match=r"command line: SOLVER.EPOCHS is many .str.; give a value like '.*' .int."):
        merge_opts(cfg, ["SOLVER.EPOCHS", "many"])


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_what_is_no_mapping_of_plain_values_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="a.yaml"):
        load_yaml(write(tmp_path / "a.yaml", text))


def test_dotted_keys() -> None:
    assert list(dotted_keys({"a": {"b": 1, "c": {}}, "d": 2})) == ["a.b", "a.c", "d"]
