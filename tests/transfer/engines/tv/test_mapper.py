"""The input pipeline: sizes against Detectron2's rule by hand, streams that depend on nothing but their seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.data import catalog
from transfer.data.catalog import DatasetError
from transfer.engines.sampling import index_stream
from transfer.engines.tv import mapper


@pytest.fixture
def records(generated):
    return catalog.load(*catalog.resolve(["generated_trainval"], [generated / "voc.yaml"]))


def samples(records, **kwargs):
    settings = dict(channel_order="RGB", short_edges=(64, 80), sampling="choice", max_size=213, flip=True, seed=0)
    return mapper.TrainSamples(records, **{**settings, **kwargs})


@pytest.mark.parametrize(
    ("size", "edge", "limit", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((500, 500), 480, 1333, (480, 480)),
    ],
)
def test_output_size(size, edge, limit, expected):
    assert mapper.output_size(*size, edge, limit) == expected


def test_a_test_edge_of_0_resizes_nothing(records):
    """Detectron2's rule, whatever the longest edge; compared with its mapper in tests/parity/test_forward.py."""
    samples = mapper.TestSamples(records, channel_order="BGR", short_edge=0, max_size=50)
    for i, record in enumerate(records):
        pixels = mapper.read_image(record["file_name"], "BGR")
        assert torch.equal(samples[i]["image"], torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


def test_boxes_follow_resize_and_flip():
    boxes = np.array([[10.0, 20.0, 30.0, 60.0], [-5.0, 0.0, 100.0, 80.0]])
    out = mapper.transform_boxes(boxes, (80, 100), (160, 50), flip=True)
    assert np.allclose(out, [[50 - 15, 40, 50 - 5, 120], [0, 0, 50, 160]])


def test_a_sample_depends_on_seed_and_position_only(records):
    one, other = samples(records), samples(records)
    assert torch.equal(one[(7, 3)]["image"], other[(7, 3)]["image"])
    shapes = {tuple(one[(p, 3)]["image"].shape) for p in range(12)}
    assert len(shapes) == 2  # both short edges were drawn
    reseeded = samples(records, seed=1)
    assert any(not torch.equal(one[(p, 3)]["image"], reseeded[(p, 3)]["image"]) for p in range(12))


def test_every_epoch_visits_every_image_once_on_all_ranks_together():
    first = [list(itertools.islice(index_stream(10, 3, rank, 2), 10)) for rank in (0, 1)]
    indices = sorted(i for part in first for _, i in part)
    assert indices == sorted([*range(10), *range(10)])
    assert {p for part in first for p, _ in part} == set(range(20))


def test_a_resumed_loader_continues_the_stream(records):
    settings = dict(grouping=True, workers=0, rank=0, world_size=1)
    whole = mapper.train_loader(samples(records), 2, start=0, **settings)
    resumed = mapper.train_loader(samples(records), 2, start=5, **settings)
    for batch in itertools.islice(whole, 5, 8):
        for a, b in zip(batch, next(resumed), strict=True):
            assert torch.equal(a["image"], b["image"]) and torch.equal(a["boxes"], b["boxes"])


def test_workers_do_not_change_the_stream_nor_the_models_random_numbers(records):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaders = [
        mapper.train_loader(samples(records), 2, grouping=True, workers=w, start=0, rank=0, world_size=1)
        for w in (0, 2)
    ]
    for _ in range(3):
        a, b = next(loaders[0]), next(loaders[1])
        assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_colour_modes_become_three_channels(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode in ("L", "CMYK") else "x.png")
    Image.new(mode, (6, 4)).save(path)
    assert mapper.read_image(str(path), "BGR").shape == (4, 6, 3)


def test_a_wrong_size_and_an_unreadable_image_name_the_file(records, tmp_path):
    with pytest.raises(DatasetError, match=r"is \d+x\d+ but its annotation says 1x2"):
        mapper.checked_image({**records[0], "height": 2, "width": 1}, "RGB")
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(DatasetError, match="bad.jpg"):
        mapper.read_image(str(tmp_path / "bad.jpg"), "RGB")
