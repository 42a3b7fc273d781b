"""Zip archives that torch.save did not write: each is called by its name, with what to do."""

from __future__ import annotations

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
