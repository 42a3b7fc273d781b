"""Weights of other types become float32; what is no dense tensor of numbers is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transfer.convert.architecture import AuditError
from transfer.convert.values import as_float32, checksum


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_noted(dtype):
    value = torch.tensor([1.5, -2.0], dtype=dtype)
    out, notes = as_float32({"w": value, "n.num_batches_tracked": torch.tensor(3)})
    assert torch.equal(out["w"], torch.tensor([1.5, -2.0])) and out["n.num_batches_tracked"].dtype == torch.int64
    assert notes == [f"weights of {str(dtype)[6:]} were converted to float32"]
    again, notes = as_float32(out)
    assert notes == [] and again["w"].data_ptr() == out["w"].data_ptr()  # float32 is passed on uncopied


def test_arrays_of_the_other_byte_order():
    out, _ = as_float32({"w": np.array([1.5, -2.0], ">f4"), "v": np.array([3.0], ">f8")})
    assert out["w"].tolist() == [1.5, -2.0] and out["v"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, dtype=torch.int32), "int32"),
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "quantised"),
        (torch.zeros(2, device="meta"), "not a dense tensor"),
        (np.array(["a"]), "not of numbers"),
        (np.array([None]), "not of numbers"),
        (np.array([1.0], np.longdouble), "which torch has not"),
    ],
)
def test_what_is_no_plain_tensor_is_refused(value, message):
    with pytest.raises(AuditError, match=message):
        as_float32({"w": value})


def test_the_checksum_sees_names_shapes_and_bits_but_not_order():
    a, b = torch.arange(6.0), torch.ones(2)
    base = checksum({"a": a, "b": b})
    assert base == checksum({"b": b, "a": a.clone()})
    assert base != checksum({"a": a.reshape(2, 3), "b": b}) and base != checksum({"a": a, "c": b})
    assert base != checksum({"a": a + 1e-6, "b": b})
    assert base == checksum({"a": torch.stack([a, -a], 1)[:, 0], "b": b})  # strides are no part of it
