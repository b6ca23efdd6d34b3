"""Tensors as every wasi-nn face sees them, and the one table where the core ABI's numberings meet the WIT order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

from promptd.errors import InvalidArgument


class TensorType(Enum):
    """Element types of `wasi:nn/tensor`; values are the WIT labels, order is the WIT order."""

    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    U8 = "U8"
    I32 = "I32"
    I64 = "I64"

    @property
    def item_size(self) -> int:
        """Bytes of one element."""
        return _ITEM_SIZES[self]


_ITEM_SIZES = {
    TensorType.FP16: 2,
    TensorType.FP32: 4,
    TensorType.FP64: 8,
    TensorType.BF16: 2,
    TensorType.U8: 1,
    TensorType.I32: 4,
    TensorType.I64: 8,
}

CORE_TYPES = (
    TensorType.FP16,
    TensorType.FP32,
    TensorType.FP64,
    TensorType.U8,
    TensorType.I32,
    TensorType.I64,
)
"""Core numbering since wasi-nn 747d8df (2023-08-23); https://github.com/WebAssembly/wasi-nn/blob/main/wasi-nn.witx"""

CORE_TYPES_BEFORE_2023 = (TensorType.FP16, TensorType.FP32, TensorType.U8, TensorType.I32)
"""Core numbering before that commit, and of WAMR's legacy `wasi_nn`."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in host memory: `data` is little endian, row-major, `prod(dimensions) * type.item_size` bytes long.

    The WIT constructor cannot fail, so a `Tensor` may disagree with its own length; `check` tells.
    """

    dimensions: tuple[int, ...]
    type: TensorType
    data: bytes

    def check(self, name: str) -> None:
        """Raise InvalidArgument when the data's length is not that of the dimensions and type."""
        expected = prod(self.dimensions) * self.type.item_size
        if len(self.data) != expected:
            shape = "x".join(map(str, self.dimensions)) or "scalar"
            raise InvalidArgument(
                f"tensor {name!r} of type {self.type.value} and shape {shape} needs {expected} bytes, "
                f"but has {len(self.data)}"
            )

    @classmethod
    def text(cls, text: str | bytes) -> Tensor:
        """Return UTF-8 text as a one-dimensional U8 tensor."""
        data = text.encode() if isinstance(text, str) else text
        return cls((len(data),), TensorType.U8, data)


NamedTensor = tuple[str, Tensor]


def core_tensor(number: int, dimensions: tuple[int, ...], data: bytes, *, legacy: bool = False) -> Tensor:
    """Return the tensor a core module means by type `number`, in whichever numbering; raises InvalidArgument.

    The two numberings disagree on 2 and 3. There the length of the data tells: it is that of one of the two types. Many
    guests give text the dimensions `[1]`, whatever its length; such a U8 tensor is taken as the bytes it has.
    """
    length = prod(dimensions)
    candidates = [
        types[number]
        for types in ((CORE_TYPES_BEFORE_2023,) if legacy else (CORE_TYPES, CORE_TYPES_BEFORE_2023))
        if number < len(types)
    ]
    if not candidates:
        raise InvalidArgument(f"{number} is not the number of a tensor type")
    kind = next((kind for kind in candidates if length * kind.item_size == len(data)), candidates[0])
    if dimensions == (1,) and len(data) != kind.item_size and TensorType.U8 in candidates:
        return Tensor((len(data),), TensorType.U8, data)
    return Tensor(dimensions, kind, data)
