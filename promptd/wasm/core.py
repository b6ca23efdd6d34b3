"""The core ABIs: `wasi_ephemeral_nn` with WasmEdge's extensions, and WAMR's legacy `wasi_nn`, each a table of functions
that read a guest's memory, delegate to `CoreNn`, and answer an errno.

Signatures and layouts: https://github.com/WebAssembly/wasi-nn/blob/c557b2e/phases/ephemeral/witx/wasi_ephemeral_nn.witx,
WasmEdge's plugins/wasi_nn/wasinnfunc.cpp, and WAMR's core/iwasm/libraries/wasi-nn/include/wasi_nn.h. Handles, pointers
and lengths are u32; names are UTF-8 without an end mark.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from wasmtime import Caller

from promptd.errors import (
    END_OF_SEQUENCE,
    WASMEDGE_ERRNOS,
    ContextFull,
    InvalidArgument,
    InvalidEncoding,
    PromptdError,
    RuntimeFailure,
    TooLarge,
    code_of,
)
from promptd.tensor import core_tensor
from promptd.wasm.control import Control, Stopped
from promptd.wasm.core_memory import GuestMemory, NoMemory
from promptd.wasm.core_nn import CoreNn
from promptd.wasm.nn import Nn

_log = logging.getLogger("promptd.guest")

ENCODINGS = ("openvino", "onnx", "tensorflow", "pytorch", "tensorflowlite", "autodetect", "autodetect")
"""Encodings by number. 5 is autodetect in the witx and for WasmEdge, and ggml for WAMR; 6 is ggml for WasmEdge, and
autodetect for WAMR: both are found out by the model's first bytes."""

TARGETS = range(4)
"""cpu, gpu, tpu, and WasmEdge's auto. A graph runs where its operator says, whatever the guest asks for."""

MOST_BUILDERS = 16
MOST_DIMENSIONS = 64

UNBOUNDED_WRITE = 245_888
"""Bytes that LlamaEdge's guests have behind the pointer of a `get_output` whose `max_size` is 0, 2^14 * 15 + 128
(llama-core/src/lib.rs, MAX_BUFFER_SIZE). They rely on WasmEdge up to 0.17.1 not looking at `max_size`."""

LOWEST_BUFFER = 1024
"""wasm-ld puts no data below; Rust's empty buffers point there, and ask for the size only."""

F32_BYTES = 4
"""The unit of the legacy ABI's sizes."""

_TENSOR = struct.Struct("<IIB3xII")
_LEGACY_TENSOR = struct.Struct("<IB3xI")


class CoreFace:
    """The host functions of one guest. Each returns an errno, or None for success."""

    def __init__(self, core: CoreNn, *, wasmedge: bool) -> None:
        self._core = core
        self._wasmedge = wasmedge
        """Whether the guest knows WasmEdge's extensions, and so its errnos and its way with `max_size` 0."""

    def errno(self, error: PromptdError) -> int:
        """Return the number of an error for this guest."""
        if self._wasmedge:
            for kind, number in WASMEDGE_ERRNOS.items():
                if isinstance(error, kind):
                    return number
        return code_of(error).errno

    def load(self, memory: GuestMemory, builders: int, count: int, encoding: int, target: int, out: int) -> None:
        memory.check_words(out)
        if encoding >= len(ENCODINGS):
            raise InvalidEncoding(f"{encoding} is not the number of a graph encoding promptd executes")
        if target not in TARGETS:
            raise InvalidArgument(f"{target} is not the number of an execution target")
        if not 0 < count <= MOST_BUILDERS:
            raise InvalidArgument(f"a graph is made of 1 to {MOST_BUILDERS} builders")
        words = memory.read_words(builders, 2 * count)
        parts = [memory.read(pointer, length) for pointer, length in zip(words[::2], words[1::2], strict=True)]
        memory.write_word(out, self._core.load(parts, ENCODINGS[encoding]))

    def load_by_name(self, memory: GuestMemory, name: int, length: int, out: int) -> None:
        memory.check_words(out)
        memory.write_word(out, self._core.load_by_name(memory.read_text(name, length)))

    def load_by_name_with_config(
        self, memory: GuestMemory, name: int, length: int, config: int, config_length: int, out: int
    ) -> None:
        memory.check_words(out)
        text = memory.read_text(name, length)
        memory.write_word(out, self._core.load_by_name(text, memory.read(config, config_length)))

    def init_execution_context(self, memory: GuestMemory, graph: int, out: int) -> None:
        memory.check_words(out)
        memory.write_word(out, self._core.open(graph))

    def set_input(self, memory: GuestMemory, context: int, index: int, tensor: int) -> None:
        memory.check_words(tensor, _TENSOR.size // 4)
        dimensions, rank, type_number, data, length = _TENSOR.unpack(memory.read(tensor, _TENSOR.size))
        shape = _dimensions(memory, dimensions, rank)
        self._core.set_input(context, index, type_number, shape, memory.read(data, length))

    def compute(self, memory: GuestMemory, context: int) -> None:
        try:
            self._core.compute(context)
        except ContextFull:
            if self._wasmedge:
                raise

    def get_output(
        self, memory: GuestMemory, context: int, index: int, buffer: int, size: int, written: int
    ) -> int | None:
        return self._give(memory, self._core.output(context, index), context, buffer, size, written)

    def compute_single(self, memory: GuestMemory, context: int) -> int | None:
        return None if self._core.compute_single(context) else END_OF_SEQUENCE

    def get_output_single(
        self, memory: GuestMemory, context: int, index: int, buffer: int, size: int, written: int
    ) -> int | None:
        return self._give(memory, self._core.output_single(context, index), context, buffer, size, written)

    def fini_single(self, memory: GuestMemory, context: int) -> None:
        self._core.fini_single(context)

    def unload(self, memory: GuestMemory, graph: int) -> None:
        self._core.unload(graph)

    def finalize_execution_context(self, memory: GuestMemory, context: int) -> None:
        self._core.finalize(context)

    def _give(self, memory: GuestMemory, data: bytes, context: int, buffer: int, size: int, written: int) -> int | None:
        """Write an output; where the buffer is too small, write only how large it would have to be."""
        memory.check_words(written)
        if size == 0 and self._wasmedge and buffer >= LOWEST_BUFFER and self._core.is_text(context):
            data = data[:UNBOUNDED_WRITE]
        elif len(data) > size:
            memory.check(buffer, size)
            memory.write_word(written, len(data))
            return code_of(TooLarge()).errno
        memory.write(buffer, data)
        memory.write_word(written, len(data))
        return None

    # WAMR's legacy module: arrays as pointers to their records, outputs in f32 elements

    def legacy_load(self, memory: GuestMemory, array: int, encoding: int, target: int, out: int) -> None:
        builders, count = memory.read_words(array, 2)
        self.load(memory, builders, count, encoding, target, out)

    def legacy_set_input(self, memory: GuestMemory, context: int, index: int, tensor: int) -> None:
        memory.check_words(tensor, _LEGACY_TENSOR.size // 4)
        array, type_number, data = _LEGACY_TENSOR.unpack(memory.read(tensor, _LEGACY_TENSOR.size))
        dimensions, rank = memory.read_words(array, 2)
        shape = _dimensions(memory, dimensions, rank)
        empty = core_tensor(type_number, shape, b"", legacy=True)
        length = prod(shape) * empty.type.item_size
        self._core.set_input(context, index, type_number, shape, memory.read(data, length), legacy=True)

    def legacy_get_output(self, memory: GuestMemory, context: int, index: int, buffer: int, size: int) -> int | None:
        (room,) = memory.read_words(size, 1)
        data = self._core.output(context, index)
        elements = -(-len(data) // F32_BYTES)
        if elements <= room:
            memory.write(buffer, data)
        memory.write_word(size, elements)
        return None if elements <= room else code_of(TooLarge()).errno


def _dimensions(memory: GuestMemory, pointer: int, rank: int) -> tuple[int, ...]:
    if rank > MOST_DIMENSIONS:
        raise InvalidArgument(f"a tensor has {MOST_DIMENSIONS} dimensions at most")
    return memory.read_words(pointer, rank)


@dataclass(frozen=True)
class CoreFunction:
    """One function of a core module's interface; it takes and returns u32."""

    operation: Callable[..., int | None]
    parameters: int
    extension: bool = False
    """Whether it is WasmEdge's own, so that its guests know WasmEdge's errnos."""


_SPECIFIED = {
    "load": CoreFunction(CoreFace.load, 5),
    "load_by_name": CoreFunction(CoreFace.load_by_name, 3),
    "init_execution_context": CoreFunction(CoreFace.init_execution_context, 2),
    "set_input": CoreFunction(CoreFace.set_input, 3),
    "compute": CoreFunction(CoreFace.compute, 1),
    "get_output": CoreFunction(CoreFace.get_output, 5),
}

MODULES: dict[str, dict[str, CoreFunction]] = {
    "wasi_ephemeral_nn": {
        **_SPECIFIED,
        "load_by_name_with_config": CoreFunction(CoreFace.load_by_name_with_config, 5, extension=True),
        "compute_single": CoreFunction(CoreFace.compute_single, 1, extension=True),
        "get_output_single": CoreFunction(CoreFace.get_output_single, 5, extension=True),
        "fini_single": CoreFunction(CoreFace.fini_single, 1, extension=True),
        "unload": CoreFunction(CoreFace.unload, 1, extension=True),
        "finalize_execution_context": CoreFunction(CoreFace.finalize_execution_context, 1, extension=True),
    },
    "wasi_nn": {
        **_SPECIFIED,
        "load": CoreFunction(CoreFace.legacy_load, 4),
        "set_input": CoreFunction(CoreFace.legacy_set_input, 3),
        "get_output": CoreFunction(CoreFace.legacy_get_output, 4),
    },
}
"""Every module beside WASI that a core module can import, and its functions."""


def host_function(name: str, function: CoreFunction, face: CoreFace, nn: Nn, control: Control) -> Callable[..., int]:
    """Return what a guest calls: errors become errnos, and a guest without a memory traps."""

    def call(caller: Caller, *arguments: int) -> int:
        try:
            memory = GuestMemory(caller)
            with control.host_call():
                status = function.operation(face, memory, *[argument & 0xFFFFFFFF for argument in arguments])
        except NoMemory:
            nn.end(f"it called {name} and exports no memory")
            raise
        except Stopped:
            raise
        except PromptdError as error:
            _log.debug("guest %s: %s: %s", nn.guest, name, error)
            status = face.errno(error)
        except Exception as error:
            _log.debug("guest %s: host function %s failed", nn.guest, name, exc_info=error)
            status = face.errno(RuntimeFailure())
        control.check()
        return status or 0

    return call
