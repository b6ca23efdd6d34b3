"""Which tensors an ONNX model takes: the guest's inputs meet the model's declarations here, before anything computes.

Inputs go by the model's names or by position ("0", "1"; the required ones first, then those with a default). wasi-nn
has no booleans: a `bool` tensor travels as U8 with bytes 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from promptd.errors import InvalidArgument, UnsupportedOperation
from promptd.tensor import NamedTensor, Tensor, TensorType

_ONNX_TYPES = {
    "tensor(float16)": (TensorType.FP16, 10),
    "tensor(float)": (TensorType.FP32, 1),
    "tensor(double)": (TensorType.FP64, 11),
    "tensor(bfloat16)": (TensorType.BF16, 16),
    "tensor(uint8)": (TensorType.U8, 2),
    "tensor(int32)": (TensorType.I32, 6),
    "tensor(int64)": (TensorType.I64, 7),
    "tensor(bool)": (TensorType.U8, 9),
}
"""onnxruntime's name of a tensor type to ours, and to the number in TensorProto.DataType of onnx.proto."""


class Port(msgspec.Struct, frozen=True):
    """An input or output as the model declares it."""

    name: str
    onnx_type: str
    """onnxruntime's name of the type, e.g. `tensor(float)`."""
    shape: tuple[int | str | None, ...] | None
    """Each dimension is a size, a name that stands for one size, or None for any; None for all is any rank."""
    required: bool = True

    @property
    def element(self) -> tuple[TensorType, int]:
        """The wasi-nn type and onnx's number; raises UnsupportedOperation where wasi-nn has no such type."""
        if self.onnx_type not in _ONNX_TYPES:
            raise UnsupportedOperation(f"{self.name!r} is a {self.onnx_type}, which no wasi-nn tensor can carry")
        return _ONNX_TYPES[self.onnx_type]

    def __str__(self) -> str:
        """Return the declaration as error messages show it, e.g. `FP32 [batch, 3, ?]`."""
        shape = "of any shape" if self.shape is None else _shape_text(self.shape)
        return f"{self.element[0].value} {shape}"


class Feed(msgspec.Struct, frozen=True):
    """An input of a run as the worker needs it, beside its bytes."""

    name: str
    shape: tuple[int, ...]
    item_size: int
    onnx_type: int
    """The number in TensorProto.DataType of onnx.proto."""


def bind(ports: Sequence[Port], inputs: Sequence[NamedTensor]) -> list[tuple[Feed, bytes]]:
    """Return `inputs` under the model's names, as the worker gets them; raises a PromptdError for what does not fit."""
    names = {port.name: port for port in ports}
    positions = {str(index): port for index, port in enumerate(ports)}
    given: dict[str, str] = {}
    sizes: dict[str, tuple[int, str]] = {}
    feeds = []
    for name, tensor in inputs:
        port = names.get(name) or positions.get(name)
        if port is None:
            known = ", ".join(map(repr, names)) or "none"
            raise InvalidArgument(f"the model has no input {name!r}; its inputs are: {known}")
        if port.name in given:
            raise InvalidArgument(f"input {port.name!r} is given twice, as {given[port.name]!r} and as {name!r}")
        given[port.name] = name
        feeds.append((_feed(port, tensor, sizes), tensor.data))
    for port in ports:
        if port.required and port.name not in given:
            raise InvalidArgument(f"input {port.name!r} is missing; the model expects {port}")
    return feeds


def _feed(port: Port, tensor: Tensor, sizes: dict[str, tuple[int, str]]) -> Feed:
    """Return what `tensor` is to `port`, if it fits; `sizes` keeps each named dimension and its first input."""
    kind, onnx_type = port.element
    if tensor.type is not kind:
        raise InvalidArgument(f"input {port.name!r} is {tensor.type.value}, but the model expects {port}")
    tensor.check(port.name)
    shape = tensor.dimensions
    if port.shape == () and shape == (1,):
        shape = ()  # The doc comment on `tensor-dimensions` in wasi-nn.wit asks for `[1]` where there is one value.
    if port.shape is not None and not _fits(shape, port.shape):
        raise InvalidArgument(f"input {port.name!r} has shape {_shape_text(shape)}, but the model expects {port}")
    for size, declared in zip(shape, port.shape or (), strict=False):
        if isinstance(declared, str):
            first, by = sizes.setdefault(declared, (size, port.name))
            if size != first:
                raise InvalidArgument(
                    f"input {port.name!r} has {size} for dimension {declared!r}, but input {by!r} has {first}"
                )
    if port.onnx_type == "tensor(bool)" and tensor.data.translate(None, b"\x00\x01"):
        raise InvalidArgument(f"input {port.name!r} is boolean to the model, so each byte must be 0 or 1")
    return Feed(port.name, shape, kind.item_size, onnx_type)


def _fits(shape: tuple[int, ...], declared: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size == wanted for size, wanted in zip(shape, declared, strict=True) if isinstance(wanted, int)
    )


def _shape_text(shape: Iterable[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
