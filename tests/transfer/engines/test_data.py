"""A run's data sets, opened together: what no run can use is said before it starts."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from pretrain.runtime.config import ConfigError
from transfer.config.load import load_config
from transfer.data.catalog import DatasetError
from transfer.data.spec import DatasetSpec
from transfer.engines.data import check_run_data, open_run_data


@pytest.mark.parametrize(("key", "training"), [("TRAIN", True), ("TEST", False)])
def test_a_set_named_twice(small_config, small_opts, key, training):
    cfg = load_config(small_config, [*small_opts, f"DATASETS.{key}", "('generated_test', 'generated_test')"])
    with pytest.raises(ConfigError, match=rf"DATASETS.{key} names a data set twice \(generated_test, generated_test\)"):
        open_run_data(cfg, training)


def test_images_that_are_in_both_sets_are_counted(small_config, small_opts, generated, tmp_path, caplog):
    """As VOC's trainval and val: nothing to refuse, but the scores say less than they seem to."""
    apart = load_config(small_config, small_opts)
    assert check_run_data(apart, training=True) == [] and check_run_data(apart, training=False) == []
    shutil.copytree(generated, root := tmp_path / "set")
    splits = root / "scenes" / "ImageSets" / "Main"
    both = (splits / "trainval.txt").read_text().splitlines()[:2]
    (splits / "test.txt").write_text("\n".join([*both, *(splits / "test.txt").read_text().splitlines()]))
    cfg = load_config(small_config, [*small_opts, "DATASETS.SPECS", f"('{root}/voc.yaml',)"])
    (line,) = check_run_data(cfg, training=True)
    assert (
        line.startswith("2 of the 8 test images of 'generated_test' are trained on too, e.g. '") and line in caplog.text
    )
    assert check_run_data(cfg, training=False) == []


def test_an_image_of_which_nothing_is_left(small_config, small_opts, generated, tmp_path):
    """A picture of 4000 x 2: with its longer edge at 213 pixels, a tenth of a pixel remains of the shorter one."""
    root = tmp_path / "set"
    shutil.copytree(generated, root)
    annotation = sorted((root / "scenes" / "Annotations").glob("*.xml"))[0]
    Image.new("RGB", (4000, 2)).save(root / "scenes" / "JPEGImages" / f"{annotation.stem}.jpg")
    tree = ET.parse(annotation)
    tree.find("size/width").text, tree.find("size/height").text = "4000", "2"
    for thing in tree.findall("object"):
        tree.getroot().remove(thing)
    tree.write(annotation)
    cfg = load_config(small_config, [*small_opts, "DATASETS.SPECS", f"('{root}/voc.yaml',)"])
    with pytest.raises(DatasetError, match="is 4000x2: with its longer edge at 213 pixels nothing is left"):
        open_run_data(cfg, training=True)


@pytest.mark.parametrize("name", ["a/b", ".hidden", "x" * 101, "\u00e9" * 51, "a\nb", "a\0b"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(DatasetError, match="cannot be part of a file's name; give at most 100 bytes"):
        DatasetSpec(name, "voc", tmp_path, "train", ("cat",), 2007)
    with pytest.raises(DatasetError, match="split '.*' cannot be part of a file's name"):
        DatasetSpec("fine", "voc", tmp_path, name, ("cat",), 2007)
