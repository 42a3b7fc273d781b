"""YAML onto defaults: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.runtime.config import ConfigError, dotted_keys, load, merge_file, merge_opts, to_dict


@pytest.fixture
def cfg() -> CfgNode:
    solver = {"BASE_LR": 0.03, "STEPS": (1, 2), "EPOCHS": 10}
    return CfgNode({"SOLVER": solver, "MODEL": {"MLP": False, "ARCH": "r50"}, "SETS": (), "BIAS": None, "SEED": 0})


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
        **{"SETS": [], "BIAS": None, "SEED": 0},
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
    assert "a.yaml', line 4: key 'EPOCHS' stands twice, on line 2 and line 4" in message


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
    with pytest.raises(ConfigError, match="command line: SOLVER.EPOCHS is 'many'; give a whole number, e.g. 10"):
        merge_opts(cfg, ["SOLVER.EPOCHS", "many"])


def test_a_fault_is_told_of_the_file_that_has_it(tmp_path: Path, cfg: CfgNode) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {EPOCHS: many}")
    top = write(tmp_path / "top.yaml", "_BASE_: base.yaml\nSOLVER: {EPOCHS: 5}")
    before = to_dict(cfg)
    assert refusal(cfg, top) == f"{tmp_path}/base.yaml: SOLVER.EPOCHS is 'many'; give a whole number, e.g. 10"
    assert to_dict(cfg) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:", "SOLVER is None, but it is a group of keys; set those, e.g. SOLVER.BASE_LR"),
        ("SOLVER: [1]", "SOLVER is [1], but it is a group of keys"),
        ("SEED: {a: 1}", "SEED is {'a': 1}; give a whole number, e.g. 0"),
        ("SOLVER.EPOCHS: 2", "the key 'SOLVER.EPOCHS' has a dot in it; nest it"),
    ],
)
def test_the_shape_of_the_tree(tmp_path: Path, cfg: CfgNode, text: str, message: str) -> None:
    assert message in refusal(cfg, write(tmp_path / "a.yaml", text))


def test_groups_have_no_value_on_the_command_line(cfg: CfgNode) -> None:
    with pytest.raises(ConfigError, match="SOLVER is '3', but it is a group of keys; set those, e.g. SOLVER.BASE"):
        merge_opts(cfg, ["SOLVER", "3"])


def test_the_defaults_keep_their_say_over_types(tmp_path: Path, cfg: CfgNode) -> None:
    """However often a key is set, and whatever a base has made of it: an empty list, a number where None stood."""
    write(tmp_path / "base.yaml", "SOLVER: {STEPS: []}\nSETS: [a]\nBIAS: 0.5")
    top = write(tmp_path / "a.yaml", "_BASE_: base.yaml\nBIAS: null")
    kinds = {"SETS": ("",), "NONE": 1}
    merged = load(cfg.clone(), top, ["SOLVER.STEPS", "[3, 4]", "SETS", "('a', 'b')"], kinds)
    assert merged.SOLVER.STEPS == (3, 4) and merged.SETS == ("a", "b") and merged.BIAS is None and merged.is_frozen()
    for opts in (["SOLVER.STEPS", "('a',)"], ["SETS", "(1,)"], ["BIAS", "x"]):
        with pytest.raises(ConfigError, match=f"command line: {opts[0]}"):
            load(cfg.clone(), top, opts, kinds)
    with pytest.raises(AttributeError, match="frozen"):
        merge_opts(merged, ["SEED", "1"])


def test_dotted_keys() -> None:
    assert list(dotted_keys({"a": {"b": 1, "c": {}}, "d": 2})) == ["a.b", "a.c", "d"]
