"""Labels from a list and from iNaturalist's json: the same set as class folders; every fault is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fvcore.common.config import CfgNode

from pretrain.data.labelled import LabelledImages, find_labelled, find_pair
from pretrain.probes.knn import main as knn
from pretrain.run import main as pretrain
from pretrain.runtime.config import ConfigError
from tests.pretrain.checkpoints import write as write_checkpoint
from tests.pretrain.conftest import MakeCfg, write_images
from tests.pretrain.test_supervised import SUPERVISED

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images: class0/000.jpg, class1/001.jpg, class2/002.jpg, class0/003.jpg, ..."""
    return write_images(tmp_path_factory.mktemp("set") / "images", 12, subfolders=3).parent


def names(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in sorted(root.glob("images/*/*.jpg"), key=lambda p: p.name)]


def write_list(root: Path, lines: list[str], name: str = "list.txt") -> Path:
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


def inaturalist(root: Path) -> dict[str, Any]:
    """Ids in no order, and fields that nobody reads."""
    ids = {"class0": 30, "class1": 10, "class2": 20}
    images = [{"id": 100 - i, "file_name": name, "width": 40, "license": 1} for i, name in enumerate(names(root))]
    annotations = [
        {"id": i, "image_id": image["id"], "category_id": ids[Path(image["file_name"]).parent.name]}
        for i, image in enumerate(reversed(images))
    ]
    categories = [{"id": i, "name": f"Species {name}", "kingdom": "Plantae"} for name, i in ids.items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories, "licenses": []}


def write_json(root: Path, edit: Edit = lambda data: None, name: str = "set.json") -> Path:
    data = inaturalist(root)
    edit(data)
    (root / name).write_text(json.dumps(data))
    return root / name


def by_path(images: LabelledImages) -> dict[str, str]:
    return {images.files.path(i): images.classes[label] for i, label in enumerate(images.labels)}


def test_a_list_is_the_set_of_class_folders(root: Path) -> None:
    """Whatever its order; spaces, empty lines, a byte order mark and `./` are no matter."""
    lines = [f"./{name}\t {Path(name).parent.name}  " for name in reversed(names(root))]
    found, folders = find_labelled(write_list(root, ["\ufeff" + lines[0], "", *lines[1:]]), "x"), root / "images"
    want = find_labelled(folders, "x")
    assert found.classes == want.classes and np.array_equal(found.labels, want.labels)
    assert [found.files.path(i) for i in range(12)] == [want.files.path(i) for i in range(12)]
    assert found.subset(6).labels.tolist() == [0, 0, 1, 1, 2, 2]
    val = find_pair(folders, root / "list.txt")[1]
    assert np.array_equal(val.labels, want.labels)


def test_a_json_is_the_set_of_class_folders(root: Path) -> None:
    found, want = find_labelled(write_json(root), "x"), find_labelled(root / "images", "x")
    assert found.classes == ("10 Species class1", "20 Species class2", "30 Species class0")  # by id
    assert by_path(found) == {path: found.classes[(int(c[-1]) - 1) % 3] for path, c in by_path(want).items()}
    assert sorted(found.labels) == list(found.labels)


def test_numbers_are_sorted_by_value_and_labels_follow_the_training_set(root: Path) -> None:
    lines = [f"{name} {9 + i % 3}" for i, name in enumerate(names(root))]
    numbers = find_labelled(write_list(root, lines), "x")
    assert numbers.classes == ("9", "10", "11")
    folders = root / "numbered"  # as folders they are sorted as text
    for i in (9, 10, 11):
        write_images(folders / str(i), 1, subfolders=0)
    train, val = find_pair(root / "list.txt", folders)
    assert train.classes == val.classes == numbers.classes and set(by_path(val).items()) == {
        (f"{folders}/{i}/000.jpg", str(i)) for i in (9, 10, 11)
    }
    train, val = find_pair(folders, root / "list.txt")
    assert train.classes == val.classes == ("10", "11", "9") and by_path(val) == by_path(numbers)


def test_the_digest_says_which_label_each_image_has(root: Path) -> None:
    lines = [f"{name} {'ab'[i % 2]}" for i, name in enumerate(names(root))]
    digests = [find_labelled(write_list(root, lines), "x").digest()]
    for other in (lines[::-1], [lines[0][:-1] + "b", *lines[1:]]):
        digests.append(find_labelled(write_list(root, other), "x").digest())
    assert digests[0] == digests[1] != digests[2]


def test_what_is_hidden_is_left_out(root: Path) -> None:
    lines = [f"{name} {i % 2}" for i, name in enumerate(names(root))]
    found = find_labelled(write_list(root, [*lines, "images/class0/._000.jpg 1"]), "x")
    assert len(found) == 12 and "hidden: 1 (images/class0/._000.jpg)" in found.notes[0]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([""], "list.txt' lists no image; write `path label` on each line"),
        (["{0} a", "{1}"], "list.txt': line 2: 'images/class1/001.jpg' has no label; write `path label`"),
        (["{0} a", "", "./{0} b"], "line 3: 'images/class0/000.jpg' stands at line 1 too; remove one of them"),
        (
            ["{0} a", "gone/1.jpg b", "gone/2.jpg b"],
            r"line 2: 'gone/1.jpg' is no file below '.*' \(nor are 1 more\)",
        ),
        (["{0} a", "images/class1 b"], "line 2: 'images/class1' is no file below '.*'; correct the path, or put"),
        (["{0}/x.jpg a"], "line 1: 'images/class0/000.jpg/x.jpg' is no file below"),
        ([10**6 * "x" + " a"], "line 1: 'xxx.{,100}xxx' is no file below"),
        (["../{0} a"], "line 1: '../images/class0/000.jpg' lies outside of the folder of the file; write paths rel"),
        (["images/../../{0} a"], "line 1: .* lies outside"),
        (["/etc/passwd a"], "line 1: '/etc/passwd' lies outside"),
        (["{0}\0 a"], "line 1: .* is no file name"),
        (["{0} -1", "{1} -01"], "line 2: the label -01 is the number -1 of line 1; write it in one way"),
        (["{0} caf\u00e9", "{1} cafe\u0301"], "line 2: the label caf.* is the word caf.* of line 1; write it in one"),
        (["{0} 7", "{1} 07"], "line 2: the label 07 is the number 7 of line 1; write it in one way"),
        ([".hidden/1.jpg a"], "lists nothing but hidden files, such as '.hidden/1.jpg'"),
    ],
)
def test_lists_that_cannot_be_read(lines: list[str], message: str, root: Path) -> None:
    path = write_list(root, [line.format(*names(root)) for line in lines], "bad.txt")
    with pytest.raises(ConfigError, match=f"^DATA.TRAIN '.*{message.replace('list.txt', 'bad.txt')}") as caught:
        find_labelled(path, "DATA.TRAIN")
    assert "\n" not in str(caught.value)


def change(*path: Any, to: Any = None) -> Edit:
    """Sets a field, or removes it."""

    def edit(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        if to is None:
            del data[path[-1]]
        else:
            data[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (change("images", to=[]), "images is empty; take the file that has some"),
        (change("categories", to=[]), "categories is empty"),
        (change("annotations"), "annotations: is missing; add it"),  # as in iNaturalist's test2018.json
        (change("images", 3, "file_name", to=3), r"images\[3\].file_name: is 3; it should be a valid string"),
        (change("images", 3, "id", to="97"), r"images\[3\].id: is '97'; it should be a valid integer"),
        (change("images", 3, "id", to=100), r"images\[3\].id: is 100, as is that of images\[0\]; remove one"),
        (change("categories", 1, "id", to=30), r"categories\[1\].id: is 30, as is that of categories\[0\]"),
        (
            change("annotations", 0, "image_id", to=7),
            r"annotations\[0\].image_id: is 7, which is no image's id; remove",
        ),
        (
            change("annotations", 0, "category_id", to=7),
            r"annotations\[0\].category_id: is 7, which is no category's id",
        ),
        (
            change("annotations", 1, "image_id", to=89),
            r"annotations\[1\].image_id: is 89, which annotations\[0\] has lab",
        ),
        (
            change("annotations", 0),
            r"images\[11\].id: is 89 \('images/class2/011.jpg'\), which no annotation labels; add",
        ),
        (
            change("images", 2, "file_name", to="images/class0/000.jpg"),
            r"images\[2\].file_name: .* stands at images\[0\]",
        ),
        (
            change("images", 2, "file_name", to="gone.jpg"),
            r"images\[2\].file_name: 'gone.jpg' is no file below",
        ),
        (change("images", 2, "file_name", to="a\nb.jpg"), r"images\[2\].file_name: 'a\\nb.jpg' is no file below"),
        (change("images", 2, "file_name", to="/etc/passwd"), r"images\[2\].file_name: '/etc/passwd' lies outside"),
        (change("images", 2, "file_name", to=""), r"images\[2\].file_name: '' is no file name"),
    ],
)
def test_jsons_that_cannot_be_read(edit: Edit, message: str, root: Path) -> None:
    path = write_json(root, edit, "bad.json")
    with pytest.raises(ConfigError, match=f"^DATA.VAL '.*bad.json': {message}") as caught:
        find_labelled(path, "DATA.VAL")
    assert "\n" not in str(caught.value)


def test_files_that_are_none(root: Path) -> None:
    for name, content, message in [
        ("bad.json", b"{", r"bad.json': is no JSON \("),
        ("bad.json", b"[1]", "bad.json'"),
        ("bad.txt", b"\xff\xfe a", r"bad.txt' cannot be read: it is no UTF-8 \(.*\); save it as UTF-8$"),
        ("bad.json", "{}".encode("utf-16"), r"bad.json' cannot be read: it is no UTF-8"),
        ("gone.txt", None, "gone.txt' does not exist; give one that holds"),
        ("bad.csv", b"a b", "bad.csv' is no folder; give one that holds .* a .txt list of `path label`, or a .json"),
    ]:
        if content is not None:
            (root / name).write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            find_labelled(root / name, "DATA.TRAIN")
        assert "\n" not in str(caught.value)


def test_a_path_that_is_there_in_another_form(tmp_path: Path) -> None:
    """As macOS unpacks accents, or as another file system reads capitals: the message says so."""
    write_images(tmp_path / "Caf\u00e9", 1, subfolders=0)
    for name, how in [
        ("Cafe\u0301/000.jpg", r"accents are written in another Unicode form: .*'Caf\\xe9/000.jpg'$"),
        ("caf\u00e9/000.JPG", "but capitals differ: write it as the file system does"),
        ("tea/000.jpg", "correct the path"),
    ]:
        with pytest.raises(ConfigError, match=how):
            find_labelled(write_list(tmp_path, [f"{name} 0"]), "x")


def test_a_json_with_a_byte_order_mark(root: Path) -> None:
    path = write_json(root)
    (marked := root / "marked.json").write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert find_labelled(marked, "x").digest() == find_labelled(path, "x").digest()


def test_classes_that_differ_in_form_only(root: Path) -> None:
    first, second = names(root)[:2]
    train = write_list(root, [f"{first} caf\u00e9", f"{second} b"], "train.txt")
    val = write_list(root, [f"{first} cafe\u0301", f"{second} b"], "val.txt")
    with pytest.raises(ConfigError, match=r"\(some differ in nothing but the Unicode form of their accents\)"):
        find_pair(train, val)


def test_images_that_are_trained_and_validated_on_are_noted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"{name} {Path(name).parent.name}" for name in names(root)]
    train, val = find_pair(root / "images", write_list(root, lines[:3]))
    assert val.notes[-1].startswith(f"3 of 3 images of DATA.VAL are in DATA.TRAIN too, such as '{root}/images/class0/")
    assert val.notes[-1] in caplog.text and not train.notes
    apart = find_pair(*(write_list(root, lines[i : i + 6], f"{i}.txt") for i in (0, 6)))
    assert not apart[1].notes


def test_a_class_that_only_one_set_has(root: Path) -> None:
    lines = [f"{name} {Path(name).parent.name}" for name in names(root)]
    val = write_list(root, [*lines[:-1], f"{names(root)[-1]} zebra"], "val.txt")
    with pytest.raises(ConfigError, match=r"VAL 4; only one of them has zebra \(line 12 of '.*val.txt'\)\. Labels are"):
        find_pair(root / "images", val)

    def another(data: Any) -> None:
        data["categories"].append({"id": 40, "name": "Species zebra"})

    with pytest.raises(ConfigError, match=r"has 40 Species zebra \(categories\[3\] of '.*more.json'\)"):
        find_pair(write_json(root), write_json(root, another, "more.json"))


def test_supervised_pretraining_and_knn_read_them(root: Path, make_cfg: MakeCfg, tmp_path: Path) -> None:
    lines = write_list(root, [f"{name} {i % 2}" for i, name in enumerate(names(root))])
    cfg: CfgNode = make_cfg(lines, tmp_path / "run", *SUPERVISED, "SOLVER.EPOCHS", 1)
    result = pretrain(cfg)
    assert (result.extra["classes"], result.extra["data_digest"]) == (2, find_labelled(lines, "x").digest())
    weights = write_checkpoint(tmp_path / "w.pth.tar")
    size: dict[str, Any] = {"k": 1, "resize": 36, "crop_size": 32, "num_workers": 0, "device_name": "cpu"}
    found = knn(weights, write_json(root), write_json(root, name="val.json"), tmp_path / "knn", **size)
    assert found.metrics["knn/acc1"] == 100  # every image is its own neighbour
