"""Zip archives that torch.save did not write: each is called by its name, with what to do."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.runtime.checkpoint import CheckpointError
from transfer.convert.archive import ArchiveError, open_archive
from transfer.convert.read import open_file

ARRAYS = {"conv.weight": np.ones((2, 3), np.float32), "bn.num_batches_tracked": np.array(7)}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_a_torchscript_program(tmp_path):
    """Its code is compressed, which must not be what the message speaks of; the remedy works."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    torch.jit.script(model).save(tmp_path / "s.pt")
    with zipfile.ZipFile(tmp_path / "s.pt") as z:
        assert any(r.compress_type != zipfile.ZIP_STORED for r in z.infolist())
    with pytest.raises(CheckpointError, match=r"TorchScript program; .*torch.jit.load\('s.pt'\).state_dict\(\)"):
        open_file(tmp_path / "s.pt")
    torch.save(torch.jit.load(tmp_path / "s.pt").state_dict(), tmp_path / "s.pth")
    content = open_file(tmp_path / "s.pth").content
    assert all(torch.equal(content[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_archive_of_arrays(tmp_path, write):
    write(tmp_path / "a.npz", **ARRAYS)
    with pytest.raises(CheckpointError, match=r"numpy arrays \(\.npz\); .*numpy.load\('a.npz'\).items\(\)"):
        open_file(tmp_path / "a.npz")
    tensors = {k: torch.as_tensor(v) for k, v in np.load(tmp_path / "a.npz").items()}
    torch.save(tensors, tmp_path / "a.pth")
    assert open_file(tmp_path / "a.pth").content.keys() == ARRAYS.keys()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zipped_checkpoint(tmp_path, compression):
    torch.save({"a": torch.ones(3)}, tmp_path / "moco.pth")
    with zipfile.ZipFile(tmp_path / "moco.zip", "w", compression) as z:
        z.write(tmp_path / "moco.pth", "weights/moco.pth")
    with pytest.raises(ArchiveError, match="zip archive without data.pkl, .*unzip it first"):
        open_archive(tmp_path / "moco.zip")


def test_a_torch_file_that_was_packed_again(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as old,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    with pytest.raises(ArchiveError, match="'a/data.pkl' is compressed, which torch.save never does"):
        open_archive(tmp_path / "b.pth")


def two_faced(path, harmless, other):
    """An archive with two directories: Python goes by where the last one is, torch by what is written there."""

    def parts(content):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as z:
            for name, data in content.items():
                z.writestr(zipfile.ZipInfo(name), data)
        raw = packed.getvalue()
        end = raw.rfind(b"PK\5\6")
        size, start = struct.unpack("<II", raw[end + 12 : end + 20])
        return raw[:start], bytearray(raw[start : start + size]), bytearray(raw[end:])

    (records, directory, end), (theirs, their_directory, _) = parts(harmless), parts(other)
    at = 0
    while at < len(directory):  # the harmless records stand behind the others
        lengths = struct.unpack("<HHH", directory[at + 28 : at + 34])
        (offset,) = struct.unpack("<I", directory[at + 42 : at + 46])
        directory[at + 42 : at + 46] = struct.pack("<I", offset + len(theirs) - len(records))
        at += 46 + sum(lengths)
    end[16:20] = struct.pack("<I", len(theirs))
    path.write_bytes(theirs + their_directory + records + directory + end)


def test_an_archive_that_shows_every_reader_another_pickle(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as z:
        harmless = {r.filename: z.read(r) for r in z.infolist()}
    program = b"\x80\x02cos\nmkdir\nX\x06\x00\x00\x00canary\x85R0"
    other = {k: program + v[2:] if k.endswith("data.pkl") else v for k, v in harmless.items()}
    two_faced(tmp_path / "x.pth", harmless, other)
    with zipfile.ZipFile(tmp_path / "x.pth") as z:  # so far the trick works
        assert all(z.read(r) == harmless[r.filename] for r in z.infolist())
    for trust in (False, True):
        with pytest.raises(CheckpointError, match="two tables of contents|is truncated or damaged"):
            open_file(tmp_path / "x.pth", trust)
