"""Records that workers share: the same values as the list, and none of its copies."""

from __future__ import annotations

import copy
import pickle

import pytest

from transfer.data.records import PackedRecords

RECORDS = [
    {"file_name": "ä b.jpg", "image_id": "000005", "height": 3, "width": 4, "annotations": []},
    {
        "file_name": "c.jpg",
        "image_id": 7,
        "height": 480,
        "width": 640,
        "annotations": [
            {
                "bbox": [0.1, 2.0, 3.5, 1e9],
                "category_id": 3,
                "iscrowd": 0,
                "segmentation": [[1.0, 2.0, 3.0, 4.0, 5, 6]],
            },
            {"bbox": [0.0, 0.0, 1.0, 1.0], "category_id": 0, "segmentation": {"size": [2, 2], "counts": b"04"}},
        ],
    },
    {"file_name": "d.jpg", "image_id": 8, "height": 1, "width": 1, "annotations": []},
]


def test_it_is_the_list():
    packed = PackedRecords(iter(RECORDS))
    assert len(packed) == 3 and list(packed) == RECORDS
    assert packed[-1] == RECORDS[-1] and packed[1:] == RECORDS[1:] and packed[::-2] == RECORDS[::-2]
    for index in (3, -4):
        with pytest.raises(IndexError):
            packed[index]
    assert list(pickle.loads(pickle.dumps(packed))) == RECORDS


def test_the_empty_share_of_a_process():
    assert list(PackedRecords([])) == []


def test_what_is_done_to_a_record_stays_with_the_caller():
    packed, before = PackedRecords(RECORDS), copy.deepcopy(RECORDS)
    packed[1]["annotations"].clear()
    assert packed[1] == before[1]
