"""Tensors know their size, and the numberings of the core ABI."""

from __future__ import annotations

import pytest

from promptd.errors import InvalidArgument
from promptd.tensor import CORE_TYPES, CORE_TYPES_BEFORE_2023, Tensor, TensorType


def test_types_are_in_the_order_of_the_wit_enum():
    assert [kind.value for kind in TensorType] == ["FP16", "FP32", "FP64", "BF16", "U8", "I32", "I64"]


def test_both_core_numberings():
    assert (CORE_TYPES[2], CORE_TYPES[3]) == (TensorType.FP64, TensorType.U8)
    assert (CORE_TYPES_BEFORE_2023[2], CORE_TYPES_BEFORE_2023[3]) == (TensorType.U8, TensorType.I32)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor((2, 3), TensorType.FP32, bytes(24)),
        Tensor((), TensorType.I64, bytes(8)),
        Tensor((0, 5), TensorType.U8, b""),
        Tensor.text("h\u00e9"),
    ],
)
def test_a_tensor_of_the_right_length_is_accepted(tensor: Tensor):
    tensor.check("x")


@pytest.mark.parametrize("length", [0, 23, 25])
def test_a_tensor_of_another_length_is_refused_with_what_was_expected(length: int):
    with pytest.raises(InvalidArgument, match="shape 2x3 needs 24 bytes, but has"):
        Tensor((2, 3), TensorType.FP32, bytes(length)).check("x")
