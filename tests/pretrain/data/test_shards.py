"""Shards hold what tarfile reads from them, whoever reads; and each way to break one is answered by one sentence."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data import shards as module
from pretrain.data.augment import TwoCrops, recipe
from pretrain.data.decode import BadImageError
from pretrain.data.images import find_images
from pretrain.data.order import ShuffledShards
from pretrain.data.shard_index import is_shard
from pretrain.data.shards import Shards
from pretrain.data.views import Batch, TrainingBatches, ViewDataset, build_loader
from pretrain.run import main
from pretrain.runtime.commands import status
from pretrain.runtime.config import ConfigError
from tests.conftest import ROOT
from tests.pretrain.conftest import MakeCfg, write_images
from tests.processes import run_in_processes


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(images: Path, folder: Path, per_shard: int = 10) -> str:
    """Shards with a label beside each image, and the pattern that names them."""
    files = sorted(images.rglob("*.jpg"))
    count = -(-len(files) // per_shard)
    for k in range(count):
        members: dict[str, bytes] = {}
        for i, file in enumerate(files[k * per_shard : (k + 1) * per_shard]):
            members |= {f"{i:04d}.cls": b"7", f"{i:04d}.jpg": file.read_bytes(), f"{i:04d}.json": b"{}"}
        write_tar(folder / f"in-{k:03d}.tar", members)
    return f"{folder}/in-{{000..{count - 1:03d}}}.tar"


@pytest.fixture(scope="module")
def pattern(images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """80 images in 12 shards, the last one with 3."""
    return write_shards(images, tmp_path_factory.mktemp("shards"), per_shard=7)


def shards_of(source: object, **kwargs: object) -> Shards:
    found = find_images(source, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, Shards)
    return found


def naive(folder: Path) -> list[tuple[str, bytes]]:
    """(name, contents) of every image, in order, with nothing but tarfile."""
    out = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    out.append((f"{path}/{member.name}", tar.extractfile(member).read()))  # type: ignore[union-attr]
    return out


def test_images_are_those_that_tarfile_reads(pattern: str) -> None:
    expected, ours = naive(Path(pattern).parent), shards_of(pattern)
    assert len(ours) == len(expected) == 80 and ours.counts.tolist() == [7] * 11 + [3]
    for index in np.random.default_rng(0).permutation(80):
        assert (ours.name(index), ours.read(index)) == expected[index]


def test_every_way_to_name_them_is_the_same_set(pattern: str, tmp_path: Path) -> None:
    folder = Path(pattern).parent
    (tmp_path / "list.txt").write_text("\n".join(f"{folder}/in-{i:03d}.tar" for i in range(12)))
    brace, star, listed = shards_of(pattern), shards_of(f"{folder}/in-*.tar"), shards_of(tmp_path / "list.txt")
    assert brace.paths == star.paths == listed.paths and brace.digest() == star.digest() == listed.digest()
    both = shards_of(f"{folder}/*-00{{2..4}}.tar")
    assert [Path(p).name for p in both.paths] == ["in-002.tar", "in-003.tar", "in-004.tar"]
    assert len(shards_of(folder / "in-011.tar")) == 3


def test_names_of_shards() -> None:
    assert all(map(is_shard, ("a.tar", Path("b/A.TAR"), "a.tar.gz", "a.tgz", "in-{0..3}.tar.zst", "*.tar")))
    assert not any(map(is_shard, ("a.tar.jpg", "a.txt", "tar", "star", "a.tar/b.png", "a.gz")))


def test_digest_depends_on_names_and_their_order(images: Path, tmp_path: Path) -> None:
    a, b = (shards_of(write_shards(images, tmp_path / x)) for x in "ab")
    assert a.digest() == b.digest()
    names = [f"{tmp_path}/a/in-{i:03d}.tar" for i in (1, 0, *range(2, 8))]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert shards_of(tmp_path / "list.txt").digest() != a.digest()
    write_tar(tmp_path / "b" / "in-000.tar", {"other.jpg": b"x"})
    assert shards_of(f"{tmp_path}/b/*.tar").digest() != a.digest()


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards whose headers are read, as they are read."""
    seen: list[str] = []
    scan = module.summarise.__globals__["scan"]

    def counted(shard: str) -> object:
        seen.append(Path(shard).name)
        return scan(shard)

    monkeypatch.setattr("pretrain.data.shard_index.scan", counted)
    return seen


def test_an_index_is_made_once_and_again_when_its_shard_changes(images: Path, tmp_path: Path, scans: list[str]) -> None:
    pattern = write_shards(images, tmp_path, per_shard=40)
    shards_of(pattern)
    assert scans == ["in-000.tar", "in-001.tar"]
    shards_of(pattern)
    assert len(scans) == 2
    write_tar(tmp_path / "in-001.tar", {"new.jpg": b"new"})
    again = shards_of(pattern)
    assert scans[2:] == ["in-001.tar"] and len(again) == 41 and again.read(40) == b"new"
    size, before = (tmp_path / "in-001.tar").stat().st_size, (tmp_path / "in-001.tar").stat().st_mtime_ns
    write_tar(tmp_path / "in-001.tar", {"wen.jpg": b"wen"})
    assert (tmp_path / "in-001.tar").stat().st_size == size
    os.utime(tmp_path / "in-001.tar", ns=(before + 1, before + 1))
    assert shards_of(pattern).read(40) == b"wen" and scans[3:] == ["in-001.tar"]
    index = tmp_path / "in-000.tar.idx"
    for broken in (b"", b"not an index", index.read_bytes()[:100]):
        index.write_bytes(broken)
        assert len(shards_of(pattern)) == 41
    assert len(scans) == 7 and not list(tmp_path.glob(".*"))


def test_indices_may_be_kept_elsewhere(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(images, tmp_path / "a", per_shard=40)
    write_shards(images, tmp_path / "b", per_shard=80)  # in-000.tar again, another one
    first = shards_of(pattern, index_dir=str(tmp_path / "indices"))
    second = shards_of(tmp_path / "b" / "in-000.tar", index_dir=str(tmp_path / "indices"))
    assert (len(first), len(second)) == (80, 80) and first.counts.tolist() == [40, 40]
    assert len(list((tmp_path / "indices").iterdir())) == 3 and not list(tmp_path.glob("[ab]/*.idx"))
    assert second.read(79) == first.read(79)

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    with pytest.raises(ConfigError, match=r"in-000\.tar\.idx' .*Permission denied.*set DATA.INDEX_DIR"):
        shards_of(pattern)


def test_few_shards_stay_open(pattern: str) -> None:
    ours, expected = shards_of(pattern, keep=3), naive(Path(pattern).parent)

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    before = descriptors()
    for index in [0, 7, 14, 1, 21, 28, 2, 79]:
        assert ours.read(index) == expected[index][1]
    assert list(ours._open) == [4, 0, 11] and descriptors() == before + 3  # the last used
    assert shards_of(pattern, keep=10**6).keep == module.MAX_OPEN
    del ours
    assert descriptors() == before


def test_a_copy_for_another_process_opens_its_own(pattern: str) -> None:
    ours = shards_of(pattern)
    ours.read(0)
    copy = pickle.loads(pickle.dumps(ours))
    assert not copy._open and copy.read(33) == ours.read(33) and copy.digest() == ours.digest()


VIEWS = TwoCrops(recipe("v2", crop_size=16))


def load(shards: Shards, num_workers: int, start: int = 0, **kwargs: int) -> list[Batch]:
    order = ShuffledShards(shards.counts, seed=0, window=4)
    batches = TrainingBatches(len(shards), 32, epochs=2, seed=0, start=start, order=order, **kwargs)
    return list(build_loader(ViewDataset(shards, VIEWS, seed=0), batches, num_workers, pin_memory=False))


def test_workers_and_resume_do_not_change_the_stream(pattern: str) -> None:
    shards = shards_of(pattern)
    shards.read(0)  # a file is open when loader processes are forked
    whole, parallel, resumed = load(shards, 0), load(shards, 2), load(shards, 0, start=3)
    assert len(whole) == len(parallel) == 4 and len(resumed) == 1
    for a, b in [*zip(whole, parallel, strict=True), (whole[3], resumed[0])]:
        assert a.numbers is not None and b.numbers is not None and torch.equal(a.numbers, b.numbers)
        assert a.views is not None and b.views is not None
        assert torch.equal(a.views[0], b.views[0]) and torch.equal(a.views[1], b.views[1])


def index_together(pattern: str) -> list[object]:
    shards = shards_of(pattern)
    return [len(shards), shards.digest(), [batch.numbers for batch in load(shards, 0)]]


def test_processes_index_together(images: Path, tmp_path: Path) -> None:
    pattern = write_shards(images, tmp_path / "shards", per_shard=7)
    results = run_in_processes(index_together, tmp_path, pattern)
    assert results[0][:2] == results[1][:2] == [80, shards_of(pattern).digest()]
    assert len(list((tmp_path / "shards").iterdir())) == 24


def test_bad_image_is_named_and_replaced(images: Path, tmp_path: Path) -> None:
    good = [file.read_bytes() for file in sorted(images.rglob("*.jpg"))[:3]]
    members = {"a.jpg": good[0], "b.jpg": b"no image", "c.jpg": good[1], "d.jpg": b"", "e.jpg": good[2][:300]}
    shards = shards_of(write_tar(tmp_path / "x.tar", members))
    for number, name in {1: "b", 3: "d", 4: "e"}.items():
        sample = ViewDataset(shards, VIEWS, seed=0)[(0, number)]
        assert sample.views is None and f"cannot read image '{tmp_path}/x.tar/{name}.jpg'" in sample.bad[0]
        sample = ViewDataset(shards, VIEWS, seed=0, replacements=50)[(0, number)]
        assert sample.views is not None and sample.number in (0, 2)


def test_a_shard_that_changes_while_it_is_read_is_named(images: Path, tmp_path: Path) -> None:
    pattern = write_shards(images, tmp_path, per_shard=40)
    shards = shards_of(pattern, keep=1)
    shards.read(0)
    os.truncate(tmp_path / "in-000.tar", 3000)
    with pytest.raises(BadImageError, match=r"in-000.tar/0039.jpg' \(0 of \d+ bytes are there\)"):
        shards.read(39)
    shards.read(40)
    with pytest.raises(BadImageError, match="in-000.tar' or its index has changed since the run began"):
        shards.read(0)
    (tmp_path / "in-000.tar").unlink()
    with pytest.raises(BadImageError, match="in-000.tar' or its index has changed"):
        shards.read(0)


def test_hidden_members_are_left_out_and_said(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As tar writes them on a Mac; also when the index is there already."""
    data = next(images.rglob("*.jpg")).read_bytes()
    write_tar(tmp_path / "a-0.tar", {"./a/1.jpg": data, "./a/._1.jpg": b"x", "__MACOSX/a/1.jpg": b"x", ".x/1.txt": b""})
    write_tar(tmp_path / "a-1.tar", {"a/2.jpg": data})
    for _ in range(2):
        found = shards_of(tmp_path / "a-*.tar")
        assert [found.name(i).rpartition("/")[2] for i in range(len(found))] == ["1.jpg", "2.jpg"]
        assert found.notes == [f"left out of 1 shards, hidden images: 2 (first in '{tmp_path}/a-0.tar')"]
        assert caplog.records.pop().message == found.notes[0]
    write_tar(tmp_path / "b.tar", {"a/._1.jpg": data})
    with pytest.raises(ConfigError, match="holds no image but 1 hidden ones"):
        shards_of(tmp_path / "b.tar")


def test_damaged_shards(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "in"
    pattern = write_shards(images, folder, per_shard=20)
    with tarfile.open(folder / "in-001.tar") as tar:
        third = [m for m in tar.getmembers() if m.name.endswith(".jpg")][3]
    os.truncate(folder / "in-001.tar", third.offset_data + 100)
    for _ in range(2):  # with and without an index
        with pytest.raises(ConfigError) as caught:
            shards_of(pattern)
        assert str(caught.value) == (
            f"DATA.TRAIN: shard '{folder}/in-001.tar' is damaged after 3 whole images (the file ends inside "
            "'0003.jpg'); copy it again, or set DATA.ON_BAD_SHARD truncate to use those 3"
        )
    shards = shards_of(pattern, truncate=True)
    assert shards.counts.tolist() == [20, 3, 20, 20]
    assert caplog.messages == shards.notes and len(shards.notes) == 2
    assert "in-001.tar' is damaged" in shards.notes[0] and "its 3 whole images are used" in shards.notes[0]
    assert shards.notes[1] == "damaged shards used in part: 1 of 4"
    assert [shards.name(i)[-8:] for i in (22, 23)] == ["0002.jpg", "0000.jpg"]


def test_the_result_names_damaged_shards(images: Path, tmp_path: Path, make_cfg: MakeCfg) -> None:
    pattern = write_shards(images, tmp_path / "in", per_shard=40)
    damaged = tmp_path / "in" / "in-001.tar"
    os.truncate(damaged, damaged.stat().st_size // 2)
    length = ["SOLVER.EPOCHS", 0, "SOLVER.ITERATIONS", 1, "SOLVER.SCHEDULE", "exponential", "TENSORBOARD", False]
    options = [*length, "DATA.ON_BAD_SHARD", "truncate", "DATA.INDEX_DIR", tmp_path / "indices"]
    result = main(make_cfg(pattern, tmp_path / "run", *options))
    assert 40 < result.extra["images"] < 80 and len(list((tmp_path / "indices").iterdir())) == 2
    assert "damaged shards used in part: 1 of 2" in result.notes and "in-001.tar" in result.notes[-2]


def test_every_kind_of_damage_is_seen(images: Path, tmp_path: Path) -> None:
    write_shards(images, tmp_path / "good", per_shard=80)
    whole = (tmp_path / "good" / "in-000.tar").read_bytes()
    with tarfile.open(tmp_path / "good" / "in-000.tar") as tar:
        members = tar.getmembers()
        end = tar.offset
    tenth = members[30].offset  # a label's header
    cases = {
        "mark": (whole[:end], 80, "ends without tar's end mark"),
        "header": (whole[: tenth + 100], 10, "."),
        "padding": (whole[: members[31].offset_data + members[31].size + 1], 11, "unexpected end of data"),
        "overwritten": (whole[:tenth] + b"\x07" * 512 + whole[tenth + 512 :], 10, f"no valid header at byte {tenth}"),
        "hole": (whole[:tenth] + bytes(1024) + whole[tenth + 1024 :], 10, f"more data behind .* at byte {tenth}"),
        "joined": (whole + whole, 80, f"more data behind tar's end mark at byte {end}"),
    }
    for name, (data, count, reason) in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(ConfigError, match=rf"{name}.tar' is damaged after {count} whole images \(.*{reason}"):
            shards_of(tmp_path / f"{name}.tar")
        assert len(shards_of(tmp_path / f"{name}.tar", truncate=True)) == count
    (tmp_path / "padded.tar").write_bytes(whole + bytes(3 << 20))
    assert len(shards_of(tmp_path / "padded.tar")) == 80


def test_bad_sources_are_refused_with_a_remedy(images: Path, tmp_path: Path) -> None:
    write_shards(images, tmp_path / "in", per_shard=20)
    (tmp_path / "in" / "in-002.tar").unlink()
    one = tmp_path / "in" / "in-000.tar"
    write_tar(tmp_path / "labels.tar", {"a.cls": b"1"})
    write_tar(tmp_path / "none.tar", {})
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    (tmp_path / "zero.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_text("not a tar file " * 100)
    for name in ("packed.tar.gz", "packed.tar"):
        (tmp_path / name).write_bytes(gzip.compress(one.read_bytes()))
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    (tmp_path / "twice.txt").write_text("in/in-000.tar\nin/../in/in-000.tar\n")
    (tmp_path / "gone.txt").write_text("in/in-000.tar\nin/in-009.tar\n")
    (tmp_path / "first.tar").write_bytes(one.read_bytes()[:600])
    (tmp_path / "cut.jpg.tar").mkdir()
    for source, message in {
        "in/in-{000..003}.tar": f"shard '{tmp_path}/in/in-002.tar' does not exist; copy it, or change the pattern",
        "in/in-{003..000}.tar": "goes backwards; write {000..003}",
        "in/in-{0..99999999}.tar": "more than ten million shards",
        "in/un-*.tar": "nothing fits",
        "gone.tar": "does not exist; give a folder",
        "in": f"for shards, give '{tmp_path}/in/*.tar'",
        "labels.tar": "holds no image; write it again, or leave it out",
        "none.tar": "holds no image",
        "zero.tar": "is no tar file (empty file); copy or write it again",
        "text.tar": "is no tar file",
        "packed.tar.gz": "is compressed (gzip), so no image can be read alone; decompress it",
        "packed.tar": "is compressed (gzip)",
        "twice.tar": "holds 'a.jpg' more than once",
        "link.tar": "'b.jpg' is no regular file; write it again with plain copies",
        "twice.txt": f"names the shard '{tmp_path}/in/in-000.tar' twice",
        "gone.txt": f"shard '{tmp_path}/in/in-009.tar' cannot be read: No such file",
        "first.tar": "is damaged after 0 whole images",
        "cut.jpg.tar": "holds no image",
        "{labels,none}.tar": "does not exist",
    }.items():
        with pytest.raises(ConfigError) as caught:
            shards_of(tmp_path / source)
        text = str(caught.value)
        assert message in text and "DATA.TRAIN" in text and "\n" not in text, text
    (tmp_path / "many.txt").write_text("labels.tar\nnone.tar\nzero.tar\ntext.tar\npacked.tar\n")
    with pytest.raises(ConfigError, match="labels.tar.*none.tar.*zero.tar.*; and 2 more shards like these$"):
        shards_of(tmp_path / "many.txt")


@pytest.fixture(scope="module")
def script() -> object:
    spec = importlib.util.spec_from_file_location("make_shards", ROOT / "datasets" / "make_shards.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_make_shards(script, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["--images", str(images), "--max-count", "30"]
    assert script.main([*words, "--output", str(out)]) == 0
    assert capsys.readouterr().out == f"DATA.TRAIN '{out}/shard-{{000000..000002}}.tar'\n"
    shards = shards_of(f"{out}/shard-{{000000..000002}}.tar")
    assert shards.counts.tolist() == [30, 30, 20]
    originals = dict(line.split("\t") for line in (out / "names.txt").read_text().splitlines())
    sources = [originals[os.path.relpath(shards.name(i), out)] for i in range(80)]
    assert [shards.read(i) for i in range(80)] == [Path(source).read_bytes() for source in sources]
    assert set(sources) == {str(path) for path in images.rglob("*.jpg")} and sources != sorted(sources)

    names = [f"shard-{i:06d}.tar" for i in range(3)]
    assert script.main([*words, "--output", str(tmp_path / "again")]) == 0
    assert all((tmp_path / "again" / name).read_bytes() == (out / name).read_bytes() for name in names)
    assert script.main([*words, "--output", str(tmp_path / "other"), "--seed", "1"]) == 0
    assert (tmp_path / "other" / names[0]).read_bytes() != (out / names[0]).read_bytes()
    assert script.main([*words, "--output", str(tmp_path / "sorted"), "--seed", "-1"]) == 0
    assert [n for _, n in (line.split("\t") for line in (tmp_path / "sorted/names.txt").open())] == [
        f"{name}\n" for name in sorted(sources)
    ]

    assert script.main([*words, "--output", str(tmp_path / "small"), "--max-bytes", "5000"]) == 0
    sizes = [path.stat().st_size for path in (tmp_path / "small").glob("*.tar")]
    assert len(sizes) > 3 and max(sizes) <= 10240  # tar fills up to 10 KiB
    capsys.readouterr()
    assert status(script.main, [*words, "--output", str(out)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --output '{out}' exists; remove it")
    assert status(script.main, ["--images", str(tmp_path / "none"), "--output", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --images '{tmp_path}/none' does not exist")


def test_make_shards_leaves_nothing_half_written(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", 5, subfolders=0)
    (images / "003.jpg").unlink()
    (images / "003.jpg").symlink_to("gone")
    assert status(script.main, ["--images", str(images), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: cannot read image") and "003.jpg" in error
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
