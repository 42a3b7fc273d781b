"""Semantic segmentation on the torchvision engine: samples, upsampling and loss by hand; whole runs; refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.runtime.config import ConfigError
from tests.segmentors import DEMO, R50, options
from tests.transfer.data.test_semantic import streets
from tests.transfer.engines.tv.test_engine import equal, weights
from transfer.config.load import load_config
from transfer.data.catalog import DatasetError, open_dataset, resolve
from transfer.engines.crops import Draw, ScaledCrops
from transfer.engines.data import open_run_data
from transfer.engines.tv import loop
from transfer.engines.tv.adapters import check_support
from transfer.engines.tv.adapters.semantic import SemanticAdapter
from transfer.engines.tv.engine import TorchvisionEngine
from transfer.engines.tv.segmentor import aligned_upsampling, pixel_loss
from transfer.tasks.semantic import SEMANTIC

ENGINE = TorchvisionEngine()


@pytest.fixture
def opts(generated, tmp_path):
    return options(generated, tmp_path)


def test_a_sample_depends_on_seed_and_position_alone(generated, opts):
    cfg = load_config(DEMO, opts)
    (spec,) = resolve(["generated_sem_seg_train"], [generated / "semantic.yaml"])
    samples, other = (SemanticAdapter().train_samples(cfg, [open_dataset(spec)], seed) for seed in (1, 2))
    a, b, c = samples[4, 2], samples[4, 2], other[4, 2]
    assert torch.equal(a["image"], b["image"]) and torch.equal(a["sem_seg"], b["sem_seg"])
    assert not torch.equal(a["image"], c["image"]) and not torch.equal(a["image"], samples[5, 2]["image"])
    assert a["image"].shape == (3, 49, 65) and a["sem_seg"].shape == (49, 65) and a["sem_seg"].dtype == torch.uint8


def test_draws_cover_their_ranges():
    crops = ScaledCrops((0.5, 2.0), (8, 8), True, (0, 0, 0), 255)
    draws = [crops.draw(np.random.default_rng(i).random) for i in range(400)]
    scales = np.array([d.scale for d in draws])
    assert scales.min() < 0.52 and scales.max() > 1.98 and abs(scales.mean() - 1.25) < 0.06
    assert 0.4 < np.mean([d.flip for d in draws]) < 0.6
    assert not any(ScaledCrops((1, 1), None, False, (0, 0, 0), 255).draw(lambda: 0.0).flip for _ in range(3))


def test_every_place_of_a_crop_is_reached_and_images_keep_their_labels():
    image = np.arange(5 * 6, dtype=np.uint8).reshape(5, 6)
    crops = ScaledCrops((1, 1), (3, 4), True, (9, 9, 9), 255)
    seen = set()
    for top in np.linspace(0, 0.999, 20):
        for left in np.linspace(0, 0.999, 20):
            pixels, ids = crops(np.stack([image] * 3, 2), image, Draw(1.0, top, left, flip=bool(len(seen) % 2)))
            assert np.array_equal(pixels[..., 0], ids)
            seen.add(int(ids.min()))
    assert seen == {6 * row + column for row in range(3) for column in range(3)}


def test_what_is_beyond_the_border_is_ignored_and_has_the_mean_colour():
    image, ids = np.full((2, 3, 3), 7, np.uint8), np.ones((2, 3), np.uint8)
    pixels, found = ScaledCrops((1, 1), (4, 5), False, (10, 20, 30), 255)(image, ids, Draw(1.0, 0.9, 0.9))
    assert found.tolist() == [[1, 1, 1, 255, 255]] * 2 + [[255] * 5] * 2
    assert pixels[0, 0].tolist() == [7, 7, 7] and pixels[3, 4].tolist() == [10, 20, 30]


def test_upsampling_puts_values_at_multiples_of_the_stride():
    logits = torch.randn(2, 3, 4, 5)
    up = aligned_upsampling(logits, 16)
    assert up.shape == (2, 3, 64, 80) and torch.allclose(up[:, :, ::16, ::16], logits, atol=1e-6)
    between = (logits[:, :, 0, 0] * 12 + logits[:, :, 1, 0] * 4) / 16
    assert torch.allclose(up[:, :, 4, 0], between, atol=1e-6)
    assert torch.equal(up[:, :, 49:], up[:, :, 48:49].expand(-1, -1, 15, -1))  # beyond the last value


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, targets = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randint(0, 3, (2, 30, 17))
    targets[:, :9] = 255
    expected = [
        -logits[n, :, y, x].log_softmax(0)[targets[n, y, x]]
        for n in range(2) for y in range(9, 30) for x in range(17)
    ]  # fmt: skip
    assert float(pixel_loss(logits, targets, 255)) == pytest.approx(float(torch.stack(expected).mean()))
    assert float(pixel_loss(logits, torch.full((2, 30, 17), 255), 255)) == 0.0


def test_killed_and_resumed_equals_uninterrupted(opts, tmp_path, monkeypatch):
    whole = ENGINE.train(load_config(DEMO, opts))
    assert {f"sem_seg/{m}" for m in ("mIoU", "fwIoU", "mACC", "pACC")} == set(whole.metrics)
    assert whole.extra["generated_sem_seg_val"]["protocol"] == "miou"
    assert len(list((tmp_path / "run" / "maps_generated_sem_seg_val").iterdir())) == 6
    cfg = load_config(DEMO, [*opts, "OUTPUT_DIR", str(tmp_path / "killed")])
    save = loop.Training.save

    def killed(training):
        save(training)
        if training.iteration == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            ENGINE.train(cfg)
    resumed = ENGINE.train(cfg, resume="must")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "killed")) and resumed.metrics == whole.metrics


def test_two_processes_score_every_image_once(opts, tmp_path, forked):
    alone = ENGINE.train(load_config(DEMO, opts))
    final = ["MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "two")]
    assert ENGINE.evaluate(load_config(DEMO, [*opts, *final]), num_gpus=2).metrics == alone.metrics


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "8"], "NUM_CLASSES is 8, but data set 'generated_sem_seg_"),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254"], "IGNORE_VALUE is 254, but the maps .* by 255: set it so"),
        (["DATASETS.TRAIN", "('generated_trainval',)"], "is scored by voc07, none of which scores the task 'semantic'"),
        (["DATASETS.TEST", "('generated_test',)"], "is scored by voc07, none of which scores the task 'semantic'"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "is scored by miou, none of which scores the task"),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "no task of this project"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(change, words, opts, generated, tmp_path):
    specs = ["DATASETS.SPECS", f"('{generated}/semantic.yaml', '{generated}/voc.yaml')"]
    with pytest.raises((ConfigError, DatasetError), match=words):
        open_run_data(load_config(DEMO, [*opts, *specs, *change]), training=True)


def test_an_image_of_which_a_scale_leaves_nothing_is_refused(tmp_path):
    spec = streets(tmp_path)
    for folder, mode in (("images", "RGB"), ("labels", "L")):
        for path in (tmp_path / folder).glob("a.*"):
            Image.new(mode, (400, 3)).save(path)
    cfg = load_config(DEMO, ["INPUT.RANDOM_SCALE", "(0.1, 2.0)"])
    with pytest.raises(DatasetError, match="image 'a' .* is 400x3: scaled by 0.1 nothing is left"):
        SEMANTIC.check_sizes(cfg, open_dataset(spec), training=True)
    SEMANTIC.check_sizes(cfg, open_dataset(spec), training=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["INPUT.CROP.TYPE", "relative"], "INPUT.CROP.TYPE = 'relative'"),
        (["MODEL.SEM_SEG_HEAD.NORM", "GN"], "MODEL.SEM_SEG_HEAD.NORM = 'GN'"),
        (["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"], "MODEL.SEM_SEG_HEAD.NAME = 'SemSegFPNHead'"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], "MODEL.BACKBONE.NAME = "),
    ],
)
def test_settings_that_the_engine_lacks_are_refused(change, words, opts):
    with pytest.raises(ConfigError, match=words):
        check_support(load_config(DEMO, [*opts, *change]))
    assert check_support(load_config(R50)) == []
    assert "belongs to the detectors of boxes" in check_support(load_config(R50, ["MODEL.RPN.NMS_THRESH", "0.6"]))[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("(2.0, 0.5)", "INPUT.RANDOM_SCALE is .*; give the smaller scale first"),
        ("(0.5,)", "INPUT.RANDOM_SCALE is .*; it must have 2 elements"),
        ("(0.0, 1.0)", "INPUT.RANDOM_SCALE is .*; every number in it must be at least 0.01"),
    ],
)
def test_scales_that_cannot_be(change, words):
    with pytest.raises(ConfigError, match=words):
        load_config(DEMO, ["INPUT.RANDOM_SCALE", change])


def test_a_damaged_map_is_refused_before_the_first_iteration(opts, generated, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(generated, root)
    path = next((root / "scenes" / "SemanticMaps").iterdir())
    path.write_bytes((generated / "scenes" / "JPEGImages" / f"{path.stem}.jpg").read_bytes())
    cfg = load_config(DEMO, [*opts, "DATASETS.SPECS", f"('{root}/semantic.yaml',)"])
    with pytest.raises(DatasetError, match="label map is a JPEG file"):
        ENGINE.train(cfg)
    assert not (tmp_path / "run").exists()
