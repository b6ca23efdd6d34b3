"""The onnx backend: graphs that onnxruntime executes, asked through the tensor interface.

onnxruntime runs in promptd's own process, not in a worker as GGUF models do: a call costs microseconds and all graphs
share one bounded memory arena. Every model file is checked by `onnx_model` first, and never reaches other files or
custom operator libraries. What crashes onnxruntime still takes the process with it, and a guest's input can be enough:
onnxruntime 1.32 aborts when DFT or STFT gets a scalar, which a model that declares no rank for its input lets through.

Inputs go by the model's names or by position ("0", "1"; the required ones first, then those with a default), outputs
come in the model's order. wasi-nn has no booleans: a `bool` tensor travels as U8 with bytes 0 and 1. A graph with
inputs or outputs of other types (strings, INT8, sequences) loads, and refuses to compute.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from promptd.backends.onnx_model import choose_providers, load_session, onnxruntime, run_error, session_options
from promptd.chat import ChatOptions
from promptd.errors import (
    InvalidArgument,
    InvalidEncoding,
    RuntimeFailure,
    TimedOut,
    TooLarge,
    UnsupportedOperation,
)
from promptd.tensor import NamedTensor, Tensor, TensorType

T = TypeVar("T")

BYTES_LIMIT = 32 * 1024**2
"""Bytes of a model that does not come from a file, unless the caller says otherwise."""

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


@dataclass(frozen=True, slots=True)
class Port:
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


class OnnxGraph:
    """A loaded ONNX model; any number of contexts compute on it at once."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        target: Literal["cpu", "gpu", "auto"] = "auto",
        limit: int = BYTES_LIMIT,
        deadline: float | None = None,
    ) -> None:
        """Load `model`, a file, or the bytes of one, of which at most `limit` are taken.

        `deadline` is a `time.monotonic()` value. Raises TimedOut past it, TooLarge for too many bytes or too little
        memory, NotFound for a missing file, InvalidEncoding for what is not ONNX, UnsupportedOperation for operators
        onnxruntime lacks, and SecurityDenied or InvalidArgument for a model that reaches for files it may not have.
        """
        if isinstance(model, bytes) and len(model) > limit:
            raise TooLarge(f"this ONNX model is {len(model)} bytes; one that is given as bytes may be {limit} at most")
        providers, warning = choose_providers(target, onnxruntime().get_available_providers())
        options = session_options()
        session, unranked = _by(
            deadline,
            lambda: load_session(model, providers, options),
            "onnxruntime was loading the model",
            lambda: options.set_load_cancellation_flag(True),
        )
        if providers[0] not in session.get_providers():
            warning = f"onnxruntime could not start its {providers[0]}, so this graph runs on the CPU"
        self.warnings: tuple[str, ...] = (warning,) if warning else ()
        """Sentences for the operator about what is not as asked."""
        try:
            self.inputs = (
                *(_port(node, unranked) for node in session.get_inputs()),
                *(_port(node, unranked, required=False) for node in session.get_overridable_initializers()),
            )
            self.outputs = tuple(_port(node) for node in session.get_outputs())
        except UnicodeDecodeError as error:
            raise InvalidEncoding(
                "this ONNX model is not valid: the name of an input or output is not UTF-8"
            ) from error
        self._session: Any = session
        self._running: dict[_Run, OnnxExecution] = {}
        self._lock = threading.Lock()

    def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> NoReturn:
        raise UnsupportedOperation("an ONNX graph takes tensors, not prompts; open an execution context on it")

    def execution_context(self, guest: str) -> OnnxExecution:
        return OnnxExecution(self)

    def count_tokens(self, text: str) -> NoReturn:
        raise UnsupportedOperation("an ONNX graph takes tensors, not text, so it has no tokens to count")

    def close(self) -> None:
        with self._lock:
            self._session = None
        self.stop(None)

    def stop(self, context: OnnxExecution | None) -> None:
        """End the running computes of `context`, or of all for None, once the operators they are in are done."""
        with self._lock:
            for run, owner in self._running.items():
                if context in (owner, None):
                    run.stop()

    def compute(
        self, context: OnnxExecution, inputs: Sequence[NamedTensor], deadline: float | None
    ) -> list[NamedTensor]:
        """Compute for `context`, as `OnnxExecution.compute` describes."""
        kinds = [port.element[0] for port in self.outputs]
        names = [port.name for port in self.outputs]
        feeds = bind(self.inputs, inputs)
        run = _Run()
        with self._lock:
            session = self._session
            if session is None:
                raise RuntimeFailure("this ONNX graph is closed")
            self._running[run] = context
        try:
            values = _by(deadline, lambda: run.start(session, names, feeds), "the ONNX graph was computing", run.stop)
        finally:
            with self._lock:
                del self._running[run]
        return [(name, _tensor(kind, value)) for name, kind, value in zip(names, kinds, values, strict=True)]


class OnnxExecution:
    """Inferences on one graph. It keeps nothing between calls, so calls may overlap."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph: OnnxGraph | None = graph

    def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
        """Return every output under its name, in the model's order.

        Raises InvalidArgument for inputs the model does not take, UnsupportedOperation for a model with types outside
        wasi-nn, TimedOut past the `time.monotonic()` value `deadline`, TooLarge when memory does not suffice, and
        RuntimeFailure. onnxruntime stops between operators: after TimedOut one long operator may go on for a while.
        """
        if self._graph is None:
            raise RuntimeFailure("this execution context is closed")
        return self._graph.compute(self, inputs, deadline)

    def close(self) -> None:
        """End a running compute with RuntimeFailure, once the operator it is in is done. Idempotent."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.stop(self)


class _Run:
    """One call of onnxruntime, which another thread can stop."""

    def __init__(self) -> None:
        self._options = onnxruntime().RunOptions()
        self._options.log_severity_level = (
            4  # A failure comes back as an exception; a guest's needs no line in the log.
        )
        self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def start(self, session: Any, names: list[str], feeds: Mapping[str, Any]) -> list[Any]:
        try:
            return list(session.run_with_ort_values(names, feeds, self._options))
        except Exception as error:
            if self._options.terminate:
                raise RuntimeFailure("the ONNX graph or context was closed while it computed") from error
            raise run_error(error) from error

    def stop(self) -> None:
        self._options.terminate = True


def bind(ports: Sequence[Port], inputs: Sequence[NamedTensor]) -> dict[str, Any]:
    """Return onnxruntime's values for `inputs` by the model's names; raises InvalidArgument, UnsupportedOperation."""
    names = {port.name: port for port in ports}
    positions = {str(index): port for index, port in enumerate(ports)}
    given: dict[str, str] = {}
    sizes: dict[str, tuple[int, str]] = {}
    feeds = {}
    for name, tensor in inputs:
        port = names.get(name) or positions.get(name)
        if port is None:
            known = ", ".join(map(repr, names)) or "none"
            raise InvalidArgument(f"the model has no input {name!r}; its inputs are: {known}")
        if port.name in given:
            raise InvalidArgument(f"input {port.name!r} is given twice, as {given[port.name]!r} and as {name!r}")
        given[port.name] = name
        feeds[port.name] = _value(port, tensor, sizes)
    for port in ports:
        if port.required and port.name not in given:
            raise InvalidArgument(f"input {port.name!r} is missing; the model expects {port}")
    return feeds


def _value(port: Port, tensor: Tensor, sizes: dict[str, tuple[int, str]]) -> Any:
    """Return `tensor` as onnxruntime's value for `port`; `sizes` keeps each named dimension and its first input."""
    import numpy

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
    try:
        array = numpy.frombuffer(tensor.data, f"<u{kind.item_size}").reshape(shape)
    except ValueError as error:
        raise InvalidArgument(
            f"input {port.name!r} has shape {_shape_text(shape)}, beyond what arrays can have"
        ) from error
    return onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx_type)


def _tensor(kind: TensorType, value: Any) -> Tensor:
    """Return a copy of an output. numpy has no BF16, so the bytes are read from where onnxruntime has them."""
    size = value.tensor_size_in_bytes()
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return Tensor(tuple(value.shape()), kind, data)


def _port(node: Any, unranked: frozenset[str] = frozenset(), *, required: bool = True) -> Port:
    return Port(node.name, node.type, None if node.name in unranked else tuple(node.shape), required)


def _fits(shape: tuple[int, ...], declared: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size == wanted for size, wanted in zip(shape, declared, strict=True) if isinstance(wanted, int)
    )


def _shape_text(shape: Iterable[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _by(deadline: float | None, call: Callable[[], T], doing: str, stop: Callable[[], None]) -> T:
    """Return `call()`; past the deadline ask it to `stop`, and raise TimedOut without waiting until it has."""
    if deadline is None:
        return call()
    if deadline <= time.monotonic():
        raise TimedOut(f"the deadline passed before {doing}")
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="onnx", daemon=True).start()
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        raise TimedOut(f"the deadline passed while {doing}") from error
    finally:
        if not future.done():
            stop()
