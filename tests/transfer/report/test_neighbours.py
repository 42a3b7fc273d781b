"""Nearest neighbours: the ranking against a naive loop, which images, computed once, nothing without weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.runtime import checkpoint
from tests.transfer.report import trees
from tests.transfer.report.test_report import Page
from transfer.convert.architecture import Architecture
from transfer.convert.convert import convert
from transfer.report import neighbours
from transfer.report.collect import collect
from transfer.report.neighbours import chance, initialised, nearest, pool, pooled, same_folder, trunks
from transfer.report.sections.alike import alike
from transfer.trials.output_folders import PRETRAINED, TRUNK
from transfer.trials.plan import Plan


def cosine(a, b) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


def test_nearest_are_those_of_a_naive_loop():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (40, 6)).astype(np.float32)
    labels = [str(i % 3) for i in range(40)]
    found = nearest(features, [0, 7, 39], 5)
    for query, mine in zip([0, 7, 39], found, strict=True):
        naive = sorted((i for i in range(40) if i != query), key=lambda i: -cosine(features[query], features[i]))[:5]
        assert [i for i, _ in mine] == naive
        assert all(abs(c - cosine(features[query], features[i])) < 1e-3 for i, c in mine)
    every = nearest(features, range(40), 5)
    hits = [labels[i] == labels[j] for i, mine in enumerate(every) for j, _ in mine]
    assert same_folder(features, labels) == pytest.approx(100 * sum(hits) / len(hits))
    assert same_folder(features, [""] * 40) is None
    pairs = [(i, j) for i in range(40) for j in range(40) if i != j]
    assert chance(labels) == pytest.approx(100 * sum(labels[i] == labels[j] for i, j in pairs) / len(pairs))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_features_are_those_of_the_network_on_normalised_pixels(order: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(paths[-1])
    mean, std = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]
    net = initialised(Architecture(18, 1, 64))
    found = pooled(net, paths, {"channel_order": order, "pixel_mean": mean, "pixel_std": std}, "test")
    for path, row in zip(paths, found, strict=True):
        x = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32)).permute(2, 0, 1)
        x = x.flip(0) if order == "BGR" else x
        x = ((x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]
        with torch.inference_mode():
            y = net.maxpool(net.relu(net.bn1(net.conv1(x))))
            y = net.layer4(net.layer3(net.layer2(net.layer1(y)))).mean((2, 3))[0]
        assert np.allclose(row, y.numpy(), atol=1e-4)


def test_the_random_network_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    a, b = initialised(Architecture(18, 1, 64)), initialised(Architecture(18, 1, 64))
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture
def plan(tmp_path: Path, generated: Path) -> Plan:
    config = str(trees.ROOT / "configs" / "pretrain" / "tiny_moco_v2_R_18.yaml")
    pretrain = {"moco": {"config": config, "opts": ["DATA.TRAIN", str(generated / "iconic" / "train")]}}
    return trees.plan(trees.experiment_file(tmp_path, generated, trials=1, pretrain=pretrain))


def write_trunk(plan: Plan) -> Path:
    torch.manual_seed(1)
    state = {
        f"module.encoder_q.{k}": v for k, v in Architecture(18, 1, 64).build().state_dict().items() if "fc" not in k
    }
    source = plan.pretrain_folder("moco") / PRETRAINED
    checkpoint.save({"state_dict": state, "arch": "resnet18"}, source)
    trunk = plan.experiment.output / "converted" / "moco" / TRUNK
    convert(source, trunk)
    return trunk


def test_computed_once_and_again_for_other_weights_or_images(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    write_trunk(plan)
    images = pool(plan)
    assert (
        images is not None and set(images.labels) == {p.parent.name for p in images.paths} and len(images.paths) == 16
    )
    assert len({images.labels[i] for i in images.queries}) == len(images.queries) == neighbours.QUERIES
    calls = []
    original = neighbours.pooled
    monkeypatch.setattr(neighbours, "pooled", lambda *args: calls.append(args[3]) or original(*args))
    (found,), problems = trunks(plan, images)
    assert len(calls) == 2 and not problems and found.trained.same is not None
    assert trunks(plan, images) == ([found], {}) and len(calls) == 2
    kept = plan.experiment.output / "neighbours" / "moco.json"
    content = json.loads(kept.read_text())
    content["key"]["weights"] = "other"
    kept.write_text(json.dumps(content))
    assert trunks(plan, images) == ([found], {}) and len(calls) == 3
    text = alike(collect(plan), images, [found], {})
    assert text is not None
    page = Page(text)
    strips = [a for a in page.all("svg") if a.get("class") == "strip"]
    assert len(strips) == neighbours.QUERIES * 3 and "by chance" in page.text
    outlined = len([a for a in page.all("rect") if a.get("class") == "same"])
    same = sum(images.labels[i] == images.labels[q] for n in (found.trained, found.random)
               for q, mine in zip(images.queries, n.nearest, strict=True) for i, _ in mine)  # fmt: skip
    assert outlined == same


def test_without_weights_one_line_says_so(plan: Plan):
    found, problems = trunks(plan, pool(plan))
    assert found == [] and problems == {"moco": "its weights are not here"}
    text = alike(collect(plan), pool(plan), found, problems)
    assert text is not None and "moco: not shown, its weights are not here." in Page(text).text
    trunk = plan.experiment.output / "converted" / "moco" / TRUNK
    trunk.parent.mkdir(parents=True)
    trunk.write_bytes(b"nothing")
    assert "moco" in trunks(plan, pool(plan))[1]


def test_test_images_where_the_pre_training_has_no_folder(tmp_path: Path, generated: Path):
    images = pool(trees.plan(trees.experiment_file(tmp_path, generated)))
    assert images is not None and images.words == "6 images of generated_test" and not any(images.labels)
