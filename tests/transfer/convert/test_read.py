"""Reading: data of any container comes back, code is never run, what is damaged is refused in one sentence."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch

from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert.archive import open_archive
from transfer.convert.pickles import PickleError, scan
from transfer.convert.read import open_file, read_file, runs

W = torch.arange(6.0).reshape(2, 3)


class Runs:
    """Unpickling it leaves a file behind."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


@pytest.fixture
def foreign():
    """Makes classes as if they came from packages that are installed where a file is written, but not here.

    Where they are installed here, they are put aside meanwhile.
    """
    packages = ("omegaconf", "pytorch_lightning")
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(packages)}

    def make(module: str, name: str, base: type = object) -> type:
        cls = type(name, (base,), {"__module__": module})
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(parts[i - 1]))
        setattr(sys.modules[module], name, cls)
        return cls

    def gone() -> None:
        for name in [name for name in sys.modules if name.startswith(packages)]:
            del sys.modules[name]
        sys.modules.update(aside)

    make.gone = gone
    yield make
    gone()


@pytest.mark.parametrize("legacy", [False, True])
def test_settings_beside_the_weights_are_read_as_inert_records(tmp_path, legacy, foreign):
    omega = foreign("omegaconf.dictconfig", "DictConfig")()
    omega.lr = 0.3
    content = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("x")),
        "hyper_parameters": foreign("pytorch_lightning.utilities.parsing", "AttributeDict", dict)(lr=0.3),
        "cfg": omega,
        "callbacks": {foreign("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): 1},
        "best": np.float64(71.1),
        "history": collections.defaultdict(list, loss=[1.0]),
        "names": {"a", "b"},
        "device": torch.device("cpu"),
        "w": W,
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    foreign.gone()
    before = set(sys.modules)
    read = read_file(tmp_path / "x.pth")
    assert torch.equal(read["w"], W) and read["hyper_parameters"] == {"lr": 0.3} and float(read["best"]) == 71.1
    trusted = runs(tmp_path / "x.pth")  # there nothing stands for them
    path = f"{type(pathlib.Path()).__module__}.PosixPath"  # pathlib._local's in Python 3.13
    assert {"argparse.Namespace", path, "omegaconf.dictconfig.DictConfig"} <= set(trusted)
    assert not any(name.startswith(("torch", "numpy")) for name in trusted)
    assert not any(name.startswith(("omegaconf", "pytorch_lightning")) for name in set(sys.modules) - before)


def write_hostile(how, path, canary):
    if how == "zip":
        torch.save({"w": W, "x": Runs(canary)}, path)
    elif how == "legacy":
        torch.save({"w": W, "x": Runs(canary)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps({"x": Runs(canary)}, protocol=int(how)))


@pytest.mark.parametrize("how", ["zip", "legacy", "0", "1", "2", "3", "4", "5"])
def test_code_is_named_and_not_run_unless_trusted(tmp_path, how):
    write_hostile(how, tmp_path / "x.pkl", tmp_path / "canary")
    with pytest.raises(CheckpointError, match=r"asks for posix.mkdir, which is not data; .*--trust"):
        open_file(tmp_path / "x.pkl")
    assert runs(tmp_path / "x.pkl") == ("posix.mkdir",) and not (tmp_path / "canary").exists()
    open_file(tmp_path / "x.pkl", trust=True)
    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("name", ["pathlib.os.system", "enum.bltns.exec", "torch.storage._load_from_bytes"])
def test_a_program_under_an_innocent_module_is_shown(tmp_path, name):
    """What stands for a record otherwise is imported and called with `trust`, and a dotted name leads anywhere."""
    module, member = name.split(".", 1) if not name.startswith("torch") else name.rsplit(".", 1)
    words = b"".join(b"\x8c" + bytes([len(w)]) + w.encode() for w in (module, member))
    program = b"\x80\x04" + words + b"\x93\x8c\x04true\x85R."
    (tmp_path / "x.pkl").write_bytes(program)
    assert runs(tmp_path / "x.pkl") == (name,)


def test_names_give_the_terminal_no_orders(tmp_path):
    name = b"posix\r\x1b[2Knothing"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04\x8c" + bytes([len(name)]) + name + b"\x8c\x04exec\x93.")
    (shown,) = runs(tmp_path / "x.pkl")
    assert shown.isprintable() and "x1b[2Knothing.exec" in shown


def test_plain_tensors_run_nothing_with_trust(tmp_path):
    content = {"w": W, "p": torch.nn.Parameter(W), "h": W.half(), "n": np.zeros(2), "f": np.float64(1), "s": {"a"}}
    torch.save(content, tmp_path / "x.pth")
    torch.save(content, tmp_path / "y.pth", _use_new_zipfile_serialization=False)
    with open(tmp_path / "z.pkl", "wb") as f:
        pickle.dump({"w": np.zeros(2), "b": b"bytes"}, f, protocol=2)
    assert [runs(tmp_path / name) for name in ("x.pth", "y.pth", "z.pkl")] == [()] * 3


def test_a_whole_module_gives_its_state_dict_when_trusted(tmp_path):
    module = torch.nn.Linear(3, 2)
    torch.save({"model": module, "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"asks for torch.nn.modules.linear.Linear"):
        open_file(tmp_path / "x.pth")
    assert "torch.nn.modules.linear.Linear" in runs(tmp_path / "x.pth")
    read = read_file(tmp_path / "x.pth", trust=True)
    assert torch.equal(read["model"]["weight"], module.weight) and read["epoch"] == 1


def test_trust_without_the_project_that_wrote_it(tmp_path, foreign):
    torch.save({"w": W, "x": foreign("omegaconf.gone", "Model")()}, tmp_path / "x.pth")
    foreign.gone()
    with pytest.raises(CheckpointError, match=r"omegaconf.*; unpickle it where its project is installed") as caught:
        open_file(tmp_path / "x.pth", trust=True)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_later_pickle_protocols_of_a_torch_file(tmp_path, protocol):
    """torch reads them with its safeguards off only; that is not damage."""
    torch.save({"w": W}, tmp_path / "x.pth", pickle_protocol=protocol)
    if protocol == 3:
        assert torch.equal(read_file(tmp_path / "x.pth")["w"], W)
        return
    with pytest.raises(CheckpointError, match=rf"pickle_protocol={protocol}, .* write it again .*--trust"):
        open_file(tmp_path / "x.pth")
    assert torch.equal(read_file(tmp_path / "x.pth", trust=True)["w"], W)


def test_dates_and_other_records_beside_the_weights(tmp_path):
    content = {"w": W, "when": datetime.datetime(2020, 1, 1), "names": frozenset({"a"}), "cut": slice(2), "z": 1j}
    torch.save(content, tmp_path / "x.pth")
    assert torch.equal(read_file(tmp_path / "x.pth")["w"], W)


def test_torch_s_advice_to_read_unsafely_is_not_passed_on(tmp_path):
    """Nor are its colours."""
    torch.save({"w": W}, tmp_path / "x.pth")
    spoilt = open_archive(tmp_path / "x.pth").pickle.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9")
    spoilt = spoilt.replace(b"_rebuild_tensor_v3", b"_rebuild_tensor_v9")
    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
        for record in old.infolist():
            new.writestr(record, spoilt if record.filename.endswith("data.pkl") else old.read(record))
    with pytest.raises(CheckpointError, match="_rebuild_tensor_v9") as caught:
        open_file(tmp_path / "y.pth")
    assert "weights_only" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_tar_older_than_its_magic_word_is_one_too(tmp_path):
    """torch would unpickle what is in it; the name of its first member may look like the start of a torch file."""
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"." + b"N." * 6
    header = bytearray(512)
    header[: len(magic)] = magic
    header[100:148] = b"0000644\0" + b"0000000\0" * 2 + b"00000000000\0" * 2
    header[148:157] = b" " * 8 + b"0"
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.pth").write_bytes(bytes(header) + bytes(1024))
    assert tarfile.is_tarfile(tmp_path / "x.pth")
    for trust in (False, True):
        with pytest.raises(CheckpointError, match="it is a tar archive; unpack it"):
            open_file(tmp_path / "x.pth", trust)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_to_be_unpacked(tmp_path, kind):
    """`.pth.tar` is a name; a real one holds the file."""
    torch.save({"w": W}, tmp_path / "in.pth")
    with tarfile.open(tmp_path / "x.pth.tar", "w", format=kind) as f:
        f.add(tmp_path / "in.pth", "in.pth")
    with pytest.raises(CheckpointError, match="it is a tar archive; unpack it"):
        open_file(tmp_path / "x.pth.tar")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_file(tmp_path / "pipe")


def test_a_name_that_the_pickle_computes_is_refused():
    assert scan(b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93.") == ("posix.system",)
    with pytest.raises(PickleError, match="computes the name"):
        scan(b"\x80\x04\x8c\x05posix)\x93.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo places"),
        (b"\x80\x02" + b")" + b"\x85" * 200 + b".", "nests more than 100"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02]", "damaged"),
        (b"\x80\x02\x86.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "damaged"),
    ],
)
def test_pickles_that_only_an_attack_has(tmp_path, data, message):
    with pytest.raises(PickleError, match=message):
        scan(data)
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_file(tmp_path / "x.pkl")


def rezip(source, target, change):
    """Writes the records of a torch file again; `change(name, data)` -> data or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if (data := change(info.filename, old.read(info))) is not None:
                new.writestr(info.filename, data)


def damage(how, path):
    torch.save({"w": W, "v": W + 1}, path)
    raw = path.read_bytes()
    again = path.with_suffix(".new")
    if how == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("x/data.pkl", b"\0" * 50_000_000)
    elif how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "no pickle":
        rezip(path, again, lambda name, data: None if name.endswith("data.pkl") else data)
    elif how == "endian":
        rezip(path, again, lambda name, data: b"big" if name.endswith("byteorder") else data)
    elif how == "script":
        with zipfile.ZipFile(path, "a") as z:
            z.writestr("x/constants.pkl", b"")
    elif how == "overlap":
        with zipfile.ZipFile(path) as z:
            at = z.start_dir
        body, directory = raw[:at], bytearray(raw[at:])
        big = len(raw) - 200
        for k in (20, 24):
            directory[k : k + 4] = struct.pack("<I", big)
        path.write_bytes(body + bytes(directory))
    if again.exists():
        os.replace(again, path)
    prefix = {"gzip": gzip.compress(raw), "lfs": b"version https://git-lfs.github.com/spec/v1\n", "html": b"<html>",
              "hdf5": b"\x89HDF\r\n", "empty": b"", "text": b"hello", "torn": b"PK\x03\x04"}.get(how)  # fmt: skip
    if prefix is not None:
        path.write_bytes(prefix)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("bomb", "is compressed, which torch.save never does"),
        ("cut", "truncated or damaged"),
        ("torn", "truncated or damaged"),
        ("no pickle", "without data.pkl"),
        ("endian", "big-endian machine"),
        ("script", "TorchScript"),
        ("overlap", "longer than the file|truncated or damaged"),
        ("gzip", "gzip; decompress"),
        ("lfs", "git lfs pull"),
        ("html", "web page"),
        ("hdf5", "HDF5"),
        ("empty", "or empty"),
        ("text", "no torch checkpoint"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, how, message):
    damage(how, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_file(tmp_path / "x.pth")
    assert "\n" not in str(caught.value) and str(tmp_path / "x.pth") in str(caught.value)


def test_a_folder_of_shards(tmp_path):
    with pytest.raises(CheckpointError, match="dcp_to_torch_save"):
        open_file(tmp_path)


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    torch.save({"w": W, "v": W + 1}, tmp_path / "x.pth")
    raw = bytearray((tmp_path / "x.pth").read_bytes())
    at = raw.index(W.numpy().tobytes())
    raw[at + 5] ^= 4
    (tmp_path / "x.pth").write_bytes(bytes(raw))
    file = open_file(tmp_path / "x.pth")
    file.check_intact([("v", file.content["v"])])
    with pytest.raises(CheckpointError, match="the bytes of w are not those that were written"):
        file.check_intact(file.content.items())


def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": W}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_archive(tmp_path / "x.pth").checksums == frozenset()
    file = open_file(tmp_path / "x.pth")
    file.check_intact(file.content.items())
    assert torch.equal(file.content["w"], W)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "x.pth")
    file = open_file(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"w is \(1000000, 1000000\) over a storage of 4 bytes"):
        file.check_intact(file.content.items())


def test_tensors_are_mapped_not_copied(tmp_path):
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "x.pth")
    file = open_file(tmp_path / "x.pth")
    maps = [line.split() for line in open("/proc/self/maps") if "x.pth" in line]
    lo, hi = (int(v, 16) for v in maps[0][0].split("-"))
    assert lo <= file.content["w"].data_ptr() < hi
