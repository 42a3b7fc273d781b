"""Which of several images of one stem is taken."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.transfer.data.sets import picture
from transfer.data import voc
from transfer.data.spec import DatasetSpec
from transfer.data.stems import IMAGE_SUFFIXES, by_stem

NAMES = st.builds(str.__add__, st.sampled_from(["a", "a.b", "deep/a"]), st.sampled_from([*IMAGE_SUFFIXES, ".JPG"]))


@given(st.sets(NAMES).map(list))
def test_the_first_suffix_wins(names: list[str]) -> None:
    """In whatever order they come, against a loop over all of them."""
    of_stem = defaultdict[str, dict[str, str]](dict)
    for name in names:
        stem, _, suffix = name.rpartition(".")
        of_stem[stem][f".{suffix}"] = name
    order = (".JPG", *IMAGE_SUFFIXES)
    expected = {stem: next(here[s] for s in order if s in here) for stem, here in of_stem.items()}
    found, others = by_stem(names)
    assert found == expected and list(found.values()) == sorted(found.values())
    assert others == sorted(set(names) - set(found.values()))


def test_so_does_the_voc_layout(tmp_path: Path) -> None:
    for name in ("a.png", "a.JPG", "deep/a.png", "b.tif", "b.bmp"):
        picture(tmp_path / "JPEGImages" / name)
    files = voc.image_files(DatasetSpec("pets", "voc", tmp_path, "all", ("cat",), 2007))
    expected = {"a": "a.JPG", "b": "b.bmp", "deep/a": "deep/a.png"}
    assert files == {stem: tmp_path / "JPEGImages" / name for stem, name in expected.items()}
