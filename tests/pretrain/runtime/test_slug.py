"""Names as folders: one safe path component each, whatever people write."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.runtime.config import ConfigError
from pretrain.runtime.slug import LONGEST, check_unique, folder, part, parts, slug
from pretrain.runtime.wording import visible


@given(st.text())
def test_every_name_is_one_component_of_bounded_length(name):
    for made in (slug(name), folder(name)):
        assert made and made not in (".", "..") and "/" not in made and "\0" not in made and not made.isspace()
        assert 0 < len(made.encode("utf-8", "surrogatepass")) <= LONGEST


def test_slugs():
    assert slug("MoCo <v2>, 200 epochs") == "moco-v2-200-epochs" and slug("日本 \u202e") == "日本"
    assert slug("../../x") == "x" and folder("../../../escaped") == "escaped"
    assert folder("R50w2x") == "R50w2x" and folder("moco_v2.1") == "moco_v2.1" and folder("..") == slug("..")
    assert re.fullmatch("name-[0-9a-f]{8}", slug(".")) and slug(".") != slug("..")
    assert slug("L" * 5000) != slug("L" * 5001) and len(slug("日" * 5000).encode()) <= LONGEST


def test_folders_that_differ_in_case_only_are_the_same_on_some_file_systems():
    check_unique([("a", "x"), ("b", "y")])
    with pytest.raises(ConfigError, match="a and b would share the folder 'moco'"):
        check_unique([("a", "MoCo"), ("b", "moco")])


@given(st.text())
def test_a_part_of_a_file_name_is_safe(name):
    made = f"predictions_{part(name)}.json"
    assert "/" not in made and "\\" not in made and visible(made) == made
    assert len(made.encode()) <= 255


@given(st.lists(st.text(), unique=True))
def test_parts_differ_on_every_file_system(names):
    made = [text.casefold() for text in parts(names)]
    assert len(set(made)) == len(names)


def test_parts_of_usual_names_are_the_names():
    usual = ["voc_2007_test", "my set", "traffic light", "猫"]
    assert [part(name) for name in usual] == usual and parts(usual) == usual
    assert re.fullmatch("a-b-[0-9a-f]{8}", part("a/b")) and part("a/b") != part("a:b") and "/" not in part("../../x")
    assert re.fullmatch("name-[0-9a-f]{8}-[0-9a-f]{8}", part("..")) and len(part("x" * 300)) < 100
    assert parts(["Cat", "dog"]) == ["Cat", "dog"] and len({p.lower() for p in parts(["Cat", "cat"])}) == 2
