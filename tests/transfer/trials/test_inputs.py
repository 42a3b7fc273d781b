"""The digest of a folder of images: of the names that its readers see."""

from __future__ import annotations

from pathlib import Path

from transfer.trials import inputs


def folder_of(place: Path, *names: str) -> str:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"")
    return str(place)


def test_digest_is_of_visible_names(tmp_path):
    """What an editor or an archive leaves there, and a loop, make no stage stale; another image or class does."""
    plain = inputs.images(folder_of(tmp_path / "a", "cat/1.jpg", "dog/deep/2.jpg"))
    littered = folder_of(tmp_path / "b", "cat/1.jpg", "dog/deep/2.jpg", ".ipynb_checkpoints/1.jpg", "cat/.DS_Store")
    (tmp_path / "b" / "latest").symlink_to(".")
    assert inputs.images(littered) == plain
    more = [("cat/1.jpg", "dog/deep/3.jpg"), ("cat/1.jpg", "dog/2.jpg"), ("cat/1.jpg", "dog/deep/2.jpg", "eel/1.jpg")]
    digests = {inputs.images(folder_of(tmp_path / f"c{i}", *names)) for i, names in enumerate(more)}
    assert len(digests) == 3 and plain not in digests


def test_of_a_list_it_is_of_its_content(tmp_path):
    for name in ("list.txt", "set.json"):
        (tmp_path / name).write_text("a.jpg 1\n")
        before = inputs.images(str(tmp_path / name))
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
        assert inputs.images(str(tmp_path / f"moved_{name}")) == before
        (tmp_path / name).write_text("a.jpg 2\n")
        assert inputs.images(str(tmp_path / name)) != before


def test_what_is_no_folder_is_its_words():
    assert inputs.images("/gone/in-{000..146}.tar") == "/gone/in-{000..146}.tar" and inputs.images(None) is None
