"""Several safetensors files and their index convert like one file; what does not fit together is one sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pretrain.runtime.checkpoint import CheckpointError
from tests.transfer.convert.checkpoints import trunk
from transfer.convert import sharded
from transfer.convert.contents import as_text, contents
from transfer.convert.convert import convert
from transfer.convert.read import open_file, read_weights
from transfer.convert.write import OutputError

INDEX = "model.safetensors.index.json"
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """Two shards, the halves of a state dict, and their index."""
    names = list(state)
    where = {name: A if i < len(names) // 2 else B for i, name in enumerate(names)}
    folder.mkdir(parents=True, exist_ok=True)
    for shard in (A, B):
        save_file({name: state[name] for name in names if where[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 7}, "weight_map": where}))
    return folder / INDEX


def test_it_converts_as_one_file(tmp_path):
    """By the index, by the folder, and with shards that are links to elsewhere, as in Hugging Face's cache."""
    state = trunk(18)
    save_file(state, tmp_path / "whole.safetensors")
    index = write(tmp_path / "blobs", state)
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    whole = convert(tmp_path / "whole.safetensors", tmp_path / "whole.pkl")
    expected = read_weights(tmp_path / "whole.pkl")
    for i, source in enumerate((index, tmp_path / "blobs", tmp_path / "links")):
        done = convert(source, tmp_path / f"{i}.pkl")
        found = read_weights(tmp_path / f"{i}.pkl")
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)
        assert done.metadata["tensors_crc32"] == whole.metadata["tensors_crc32"]
        assert done.metadata["source"] == INDEX and done.metadata["source_sha256"] == sharded.sha256(index)


def test_the_digest_is_of_all_files(tmp_path):
    index = write(tmp_path, {"a": torch.zeros(1), "b": torch.ones(1)})
    lines = [f"{name} {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}\n" for name in (INDEX, A, B)]
    before = sharded.sha256(index)
    assert before == sharded.sha256(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()
    save_file({"b": torch.zeros(1)}, tmp_path / B)
    assert sharded.sha256(index) != before
    assert sharded.sha256(tmp_path / A) == hashlib.sha256((tmp_path / A).read_bytes()).hexdigest()


def test_inspection_counts_all_shards(tmp_path):
    index = write(tmp_path, trunk(18))
    inside = contents(index)
    assert inside["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir()) and inside["why_not"] is None
    assert f"{INDEX}: safetensors in 2 shards, " in as_text(inside)


def test_nothing_is_written_over_a_shard(tmp_path):
    write(tmp_path, trunk(18))
    (tmp_path / "link.pkl").symlink_to(A)
    with pytest.raises(OutputError, match="link.pkl' is what is read as well"):
        convert(tmp_path, tmp_path / "link.pkl")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_file(path)
    assert str(path.name) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_shard_alone(tmp_path):
    write(tmp_path, {"a": torch.zeros(1), "b": torch.ones(1)})
    assert refusal(tmp_path / A).endswith(f"it is one of 2 shards of a checkpoint; give their index '{INDEX}'")
    (tmp_path / INDEX).unlink()
    assert "which is not beside it: copy that too" in refusal(tmp_path / A)
    assert f"holds no *{INDEX[5:]}; give the file that is in it" in refusal(tmp_path)
    (tmp_path / A).rename(tmp_path / "model-00001-of-00001.safetensors")
    assert list(open_file(tmp_path / "model-00001-of-00001.safetensors").content) == ["a"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"a": A, "b": "model-00003.safetensors"}, "1 of its 2 shards are missing: model-00003.safetensors; copy them"),
        ({"a": A, "b": "../b.safetensors"}, "names '../b.safetensors', which lies outside its folder"),
        ({"a": A, "b": "x/../../b.safetensors"}, "lies outside its folder"),
        ({"a": A, "b": "/etc/passwd"}, "names '/etc/passwd', which lies outside its folder"),
        ({"a": A, "b": "pytorch_model.bin"}, "its shard 'pytorch_model.bin' is no safetensors file"),
        ({"a": B, "b": A}, "'a' is in two of its shards|'b' is in two of its shards"),
        ({"a": A}, None),
        ({"a": A, "b": B, "c": B}, f"its index names 'c' in '{B}', which has not that tensor"),
        ({"a": A, "c": B}, f"its index does not name 'b' in '{B}', which has that tensor"),
        ({}, "no 'weight_map'"),
        ({"a": 1}, "no 'weight_map'"),
        ([], "no 'weight_map'"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, where, words):
    index = write(tmp_path, {"a": torch.zeros(1), "b": torch.ones(1)})
    index.write_text(json.dumps({"weight_map": where}))
    if words is None:  # a shard that nobody names is nobody's
        assert list(open_file(index).content) == ["a"]
    else:
        assert any(part in refusal(index) for part in words.split("|"))


def test_a_tensor_twice(tmp_path):
    index = write(tmp_path, {"a": torch.zeros(1), "b": torch.ones(1)})
    text = index.read_text()
    index.write_text(text.replace('"b":', '"a":'))
    assert "its index names 'a' twice; write it again" in refusal(index)
    index.write_text(text)
    save_file({"a": torch.zeros(1), "b": torch.ones(1)}, tmp_path / B)
    assert f"'a' is in two of its shards, '{B}' and '{A}'" in refusal(index)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"weight_map": {"a"', "no whole JSON"),
        (b'{"weight_map": {"\xff": 1}}', "no whole JSON"),
        (b'{"a":' * 20000, "no whole JSON"),
        (b'{"architectures": ["ResNet"]}', "no 'weight_map'"),
    ],
)
def test_json_that_is_no_index(tmp_path, text, words):
    (tmp_path / INDEX).write_bytes(text)
    assert words in refusal(tmp_path / INDEX)
    (tmp_path / "config.json").write_bytes(text)
    assert "it is JSON; an index of shards is called *.safetensors.index.json" in refusal(tmp_path / "config.json")


def test_a_damaged_shard_is_named(tmp_path):
    index = write(tmp_path, {"a": torch.zeros(1), "b": torch.ones(1)})
    (tmp_path / B).write_bytes((tmp_path / B).read_bytes()[:-2])
    assert f"its shard '{B}' cannot be read (" in refusal(index)


def test_a_folder_with_two_checkpoints(tmp_path):
    write(tmp_path, {"a": torch.zeros(1), "b": torch.ones(1)})
    (tmp_path / "model.fp16.safetensors.index.json").write_text("{}")
    assert "it holds several checkpoints (model.fp16.safetensors.index.json, model.safetensors.index.json)" in refusal(
        tmp_path
    )
