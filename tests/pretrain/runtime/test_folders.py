"""What of a folder is read: nothing hidden, each real folder once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretrain.runtime.folders import is_hidden, read_tree


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.mark.parametrize(
    "path",
    [".ipynb_checkpoints/a.jpg", "a/.b/c.jpg", "__MACOSX/a/b.jpg", "a/._b.jpg", ".DS_Store", "a/Thumbs.db", "@eaDir",
     "a/@eaDir/b.jpg", "...jpg"],
)  # fmt: skip
def test_hidden(path):
    assert is_hidden(path)


@pytest.mark.parametrize("path", ["a.jpg", "./a.jpg", "../a/b.jpg", "/a/b.jpg", "a.b/c.jpg", "_a/__b__.jpg", "", "a@b"])
def test_not_hidden(path):
    assert not is_hidden(path)


def test_hidden_ones_are_left_out_and_said(tmp_path):
    fill(
        tmp_path,
        "a/1.jpg",
        "a/2.JPG",
        "a/._1.jpg",
        "a/.DS_Store",
        "b/c/3.jpg",
        "b/x.txt",
        "__MACOSX/a/1.jpg",
        "d/.x/4.jpg",
    )
    tree = read_tree(tmp_path, (".jpg",))
    assert tree.files == ("a/1.jpg", "a/2.JPG", "b/c/3.jpg") and tree.folders == ("", "a", "b", "b/c", "d")
    assert tree.hidden == ("__MACOSX", "a/._1.jpg", "d/.x") and tree.again == ()
    assert tree.notes("set") == ("left out of 'set', hidden: 3 (__MACOSX, a/._1.jpg, d/.x)",)
    assert read_tree(tmp_path / "b" / "c", (".jpg",)).notes("c") == ()


def test_a_folder_whose_own_name_is_hidden(tmp_path):
    fill(tmp_path, ".cache/set/a/1.jpg")
    assert read_tree(tmp_path / ".cache" / "set").files == ("a/1.jpg",)


def test_loops_end_and_no_folder_is_read_twice(tmp_path):
    """Links to the folder itself, to one around it, and two names of one folder: its own name wins, else the first."""
    fill(tmp_path, "outside/1.jpg", "outside/deep/2.jpg", "in/root/z/3.jpg", "in/sibling/4.jpg")
    root = tmp_path / "in" / "root"
    for name, target in {
        "latest": ".", "up": "..", "a": "z", "one": "../../outside", "two": "../../outside", "z/loop": "../..",
        "three": "../../outside/deep",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    tree = read_tree(root)
    assert tree.files == ("one/1.jpg", "one/deep/2.jpg", "z/3.jpg")
    assert tree.again == ("a", "latest", "three", "two", "up", "z/loop")
    assert "linked folders that are read already: 6 (a, latest, three, ...)" in tree.notes(root)[0]


def test_links_to_files_and_dead_links_stay(tmp_path):
    """A dead link is a file that cannot be read: whoever reads it says so."""
    fill(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "2.jpg").symlink_to("1.jpg")
    (tmp_path / "a" / "3.jpg").symlink_to("gone")
    assert read_tree(tmp_path).files == ("a/1.jpg", "a/2.jpg", "a/3.jpg")


def test_an_unreadable_folder_is_an_error(tmp_path):
    fill(tmp_path, "a/1.jpg")
    if os.geteuid() == 0:
        pytest.skip("nothing is unreadable to root")
    (tmp_path / "a").chmod(0)
    with pytest.raises(PermissionError):
        read_tree(tmp_path)
    (tmp_path / "a").chmod(0o755)
