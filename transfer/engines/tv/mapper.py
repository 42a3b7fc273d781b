"""Turns images and boxes into network inputs, pixel for pixel as Detectron2's default mapper makes them.

A training sample is a pure function of (seed, position in the stream), so that a resumed run, or one with another
number of workers, sees the same inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pretrain.runtime.seed import derive
from pretrain.runtime.workers import check_workers, start_worker
from transfer.data.catalog import DatasetError
from transfer.data.records import PackedRecords
from transfer.data.spec import Record
from transfer.engines.images import read_image
from transfer.engines.sampling import index_stream
from transfer.engines.tv import keypoints, masks


def output_size(height: int, width: int, short_edge: int, max_size: int) -> tuple[int, int]:
    """Returns (height, width) for a shorter edge of `short_edge` pixels and a longer edge of at most `max_size`."""
    scale = short_edge / min(height, width)
    new_h, new_w = (float(short_edge), scale * width) if height < width else (scale * height, float(short_edge))
    if max(new_h, new_w) > max_size:
        shrink = max_size / max(new_h, new_w)
        new_h, new_w = new_h * shrink, new_w * shrink
    return int(new_h + 0.5), int(new_w + 0.5)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to (h, w, 3) uint8 by PIL's antialiased bilinear filter on 8 bits."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def transform_boxes(boxes: np.ndarray, old: tuple[int, int], new: tuple[int, int], flip: bool) -> np.ndarray:
    """Resizes and flips (M, 4) XYXY boxes with their image and clips them to the new (h, w); float64 -> float32."""
    boxes = boxes.astype(np.float64) * np.array([new[1] / old[1], new[0] / old[0]] * 2)
    if flip:
        boxes = np.stack([new[1] - boxes[:, 2], boxes[:, 1], new[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    limit = np.array([new[1], new[0]] * 2, dtype=np.float64)
    return np.minimum(boxes.clip(min=0), limit).astype(np.float32)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turns (h, w, 3) into (3, h, w) uint8."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def checked_image(record: Record, channel_order: str) -> np.ndarray:
    """Reads an image with `read_image` and checks that it has the size that its annotation states.

    Raises:
        DatasetError: the file's size is not the annotation's (its boxes would be in other pixels).
    """
    image = read_image(record["file_name"], channel_order)
    if image.shape[:2] != (record["height"], record["width"]):
        raise DatasetError(
            f"'{record['file_name']}' is {image.shape[1]}x{image.shape[0]} but its annotation says "
            f"{record['width']}x{record['height']} (width x height); correct the annotation"
        )
    return image


class Augmented(Dataset):
    """Maps (position, index) to a training sample, augmented by the randomness of that position alone.

    Attributes:
        factors: how often each image comes per pass (see `sampling.index_stream`); None for once each.
    """

    factors: Sequence[float] | None = None

    def __init__(self, records: PackedRecords, channel_order: str, seed: int):
        self.records, self.channel_order, self.seed = records, channel_order, seed
        self.wide = [r["width"] > r["height"] for r in records]

    def generator(self, position: int) -> np.random.Generator:
        """Returns the random generator of a position in the stream."""
        return np.random.default_rng(derive(self.seed, 1, position))


class TrainSamples(Augmented):
    """Maps (position, index) to {"image", "boxes", "labels"}, augmented by that position's randomness alone."""

    def __init__(
        self,
        records: PackedRecords,
        *,
        channel_order: str,
        short_edges: Sequence[int],
        sampling: str,
        max_size: int,
        flip: bool,
        seed: int,
        mask_format: str | None = None,
        flipped_keypoints: Sequence[int] | None = None,
    ):
        """
        Args:
            short_edges: lengths of the shorter edge in pixels; `sampling` "choice" takes one of them, "range" an
                integer between the two.
            mask_format: "polygon", "bitmask", or None for no masks.
            flipped_keypoints: which point comes at each place of a mirrored image's list; None for no keypoints.
        """
        super().__init__(records, channel_order, seed)
        self.short_edges, self.sampling = tuple(short_edges), sampling
        self.max_size, self.flip, self.mask_format = max_size, flip, mask_format
        self.flipped_keypoints = flipped_keypoints

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        position, index = key
        rng = self.generator(position)
        if self.sampling == "range":
            short_edge = int(rng.integers(self.short_edges[0], self.short_edges[1] + 1))
        else:
            short_edge = int(rng.choice(self.short_edges))
        return self.augmented(self.records[index], short_edge, flip=self.flip and rng.random() < 0.5)

    def augmented(self, record: Record, short_edge: int, flip: bool) -> dict[str, Any]:
        """Makes the network's input at this size and orientation.

        Returns:
            image (3, h, w) uint8, boxes (M, 4), labels (M,), and, where asked for, masks and keypoints (M, k, 3).
        """
        image = checked_image(record, self.channel_order)
        old_h, old_w = old = (image.shape[0], image.shape[1])
        new = output_size(old_h, old_w, short_edge, self.max_size)
        image = resize(image, new)
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        raw = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
        boxes = torch.from_numpy(transform_boxes(raw, old, new, flip))
        labels = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 1e-5).all(dim=1)
        sample: dict[str, Any] = {"image": to_tensor(image[:, ::-1] if flip else image)}
        if self.mask_format is not None:
            found = self._masks(record, objects, old, new, flip)
            keep &= found.nonempty()
            sample["masks"] = found.select(keep)
        if (order := self.flipped_keypoints) is not None:
            points = np.array([a["keypoints"] for a in objects], dtype=np.float64).reshape(len(objects), len(order), 3)
            sample["keypoints"] = torch.from_numpy(keypoints.transform(points, old, new, order if flip else None))[keep]
        return {**sample, "boxes": boxes[keep], "labels": labels[keep]}

    def _masks(
        self, record: Record, objects: Sequence[Record], old: tuple[int, int], new: tuple[int, int], flip: bool
    ) -> masks.Masks:
        if self.mask_format == "polygon" and any(isinstance(a["segmentation"], dict) for a in objects):
            raise DatasetError(
                f"an object of '{record['file_name']}' is given as RLE, not as polygons; set INPUT.MASK_FORMAT bitmask"
            )
        shapes = [masks.transform(a["segmentation"], old, new, flip) for a in objects]
        if self.mask_format == "polygon":
            return masks.Polygons(shapes)
        maps = [shape if isinstance(shape, np.ndarray) else masks.bitmap(shape, new) for shape in shapes]
        return masks.Bitmaps(torch.from_numpy(np.array(maps, dtype=bool).reshape(-1, *new)))


class TestSamples(Dataset):
    """Maps an index to {"image", "height", "width", "image_id"} at the test scale; `short_edge` 0 resizes nothing."""

    def __init__(self, records: PackedRecords, *, channel_order: str, short_edge: int, max_size: int):
        self.records, self.channel_order = records, channel_order
        self.short_edge, self.max_size = short_edge, max_size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        image = checked_image(record, self.channel_order)
        h, w = image.shape[:2]
        size = (h, w) if self.short_edge == 0 else output_size(h, w, self.short_edge, self.max_size)
        return {
            "image": to_tensor(resize(image, size)),
            "height": record["height"],
            "width": record["width"],
            "image_id": record["image_id"],
        }


def batches(
    stream: Iterator[tuple[int, int]], wide: Sequence[bool], batch_size: int, grouping: bool
) -> Iterator[list[tuple[int, int]]]:
    """Yields endless batches of (position, index); with `grouping`, each holds only wide or only tall images."""
    buckets: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for item in stream:
        bucket = buckets[grouping and wide[item[1]]]
        bucket.append(item)
        if len(bucket) == batch_size:
            yield list(bucket)
            bucket.clear()


def train_loader(
    samples: Augmented,
    batch_size: int,
    *,
    grouping: bool,
    workers: int,
    start: int,
    rank: int,
    world_size: int,
    pin_memory: bool = False,
) -> Iterator[list[dict[str, Any]]]:
    """Yields this rank's endless batches from iteration `start` on.

    Args:
        batch_size: images per process.
        pin_memory: set it for a GPU, so that the host need not wait for copies.
        start: number of batches that an earlier process has consumed; they are skipped without reading an image.
    """
    check_workers(workers)
    stream = index_stream(len(samples.records), derive(samples.seed, 0), rank, world_size, samples.factors)
    chosen = itertools.islice(batches(stream, samples.wide, batch_size, grouping), start, None)
    loader = DataLoader(
        samples,
        batch_sampler=chosen,
        num_workers=workers,
        collate_fn=list,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # its own, so that starting a loader leaves the model's random numbers alone
    )
    return iter(loader)
