"""A core module whose strings are pulled from Python: it calls each host function with any numbers, and its memory is
open.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from wasmtime import Instance, Linker, Memory, Module, Store, wat2wasm

from promptd.backends.base import Graph
from promptd.config import GuestLimits
from promptd.errors import NotFound
from promptd.wasm.control import Control
from promptd.wasm.core import MODULES
from promptd.wasm.grants import Grant
from promptd.wasm.module import inspect_module
from promptd.wasm.nn import Nn
from promptd.wasm.runtime import Runtime

EPHEMERAL, LEGACY = "wasi_ephemeral_nn", "wasi_nn"
EXTENSIONS = tuple(name for name, function in MODULES[EPHEMERAL].items() if function.extension)
SPECIFIED = tuple(name for name in MODULES[EPHEMERAL] if name not in EXTENSIONS)

F16, F32, F64, U8, I32, I64 = range(6)
"""The core ABI's tensor types since 2023."""


def puppet_wat(module: str, names: tuple[str, ...], memory: str = '(memory (export "memory") 16)') -> str:
    """Return a module that imports `names` of `module`, and exports a function of each name that calls it."""
    lines = []
    for name in names:
        count = MODULES[module][name].parameters
        params = "(param" + " i32" * count + ") (result i32)"
        lines.append(f'(import "{module}" "{name}" (func ${name} {params}))')
    lines.append(memory)
    lines.append('(func (export "_start"))')
    for name in names:
        count = MODULES[module][name].parameters
        params = "(param" + " i32" * count + ") (result i32)"
        arguments = " ".join(f"(local.get {index})" for index in range(count))
        lines.append(f'(func (export "{name}") {params} (call ${name} {arguments}))')
    return "(module\n" + "\n".join(lines) + ")"


class Puppet:
    """One instance; `call` and the attributes named like host functions return errnos."""

    def __init__(
        self,
        runtime: Runtime,
        graphs: Mapping[str, Graph],
        *,
        module: str = EPHEMERAL,
        names: tuple[str, ...] | None = None,
        wasmedge: bool = False,
        memory: str = '(memory (export "memory") 16)',
        **limits: Any,
    ) -> None:
        self.printed = bytearray()
        self.control = Control("puppet")
        self.graphs = graphs
        grant = Grant(graphs=frozenset([*graphs, "missing"]), limits=GuestLimits(**limits))
        self.nn = Nn("puppet", grant, self._graph, self.control, lambda _text: None)
        code = Module(runtime.engine, wat2wasm(puppet_wat(module, names or tuple(MODULES[module]), memory)))
        self.imports = inspect_module(runtime.engine, Path("puppet.wat"), code)
        self.store = Store(runtime.engine)
        self.store.set_epoch_deadline(1 << 60)
        linker = Linker(runtime.engine)
        self.imports.bind(linker, self.store, self.nn, self.control, self.printed.extend, wasmedge=wasmedge)
        self._exports = Instance.exports(linker.instantiate(self.store, code), self.store)
        self._top = 65536

    def _graph(self, name: str) -> Graph:
        if name not in self.graphs:
            raise NotFound(f"no graph is called {name!r}")
        return self.graphs[name]

    @property
    def memory(self) -> Memory:
        return self._exports["memory"]  # type: ignore[return-value]

    def call(self, name: str, *arguments: int) -> int:
        signed = [argument - (1 << 32) if argument >= 1 << 31 else argument for argument in arguments]
        return self._exports[name](self.store, *signed)  # type: ignore[operator]

    def put(self, data: bytes, align: int = 4) -> int:
        """Put `data` somewhere new in memory; return where."""
        at = -(-self._top // align) * align
        self._top = at + len(data)
        if self._top > self.memory.data_len(self.store):
            self.memory.grow(self.store, -(-self._top // 65536))
        self.memory.write(self.store, data, at)
        return at

    def read(self, pointer: int, length: int) -> bytes:
        return bytes(self.memory.read(self.store, pointer, pointer + length))

    def word(self, pointer: int) -> int:
        return int.from_bytes(self.read(pointer, 4), "little")

    def out(self) -> int:
        return self.put(b"\xee" * 4)

    # What guests do, in their usual ways; each raises Errno

    def load(self, name: str, config: str | bytes | None = None) -> int:
        data, out = name.encode(), self.out()
        if config is None:
            check(self.call("load_by_name", self.put(data), len(data), out))
        else:
            text = config.encode() if isinstance(config, str) else config
            check(self.call("load_by_name_with_config", self.put(data), len(data), self.put(text), len(text), out))
        return self.word(out)

    def load_bytes(self, *builders: bytes, encoding: int = 5, target: int = 0) -> int:
        array = b"".join(struct.pack("<II", self.put(builder), len(builder)) for builder in builders)
        out = self.out()
        check(self.call("load", self.put(array), len(builders), encoding, target, out))
        return self.word(out)

    def init(self, graph: int) -> int:
        out = self.out()
        check(self.call("init_execution_context", graph, out))
        return self.word(out)

    def set(
        self, context: int, data: bytes | str, index: int = 0, kind: int = U8, dims: tuple[int, ...] = (1,)
    ) -> None:
        data = data.encode() if isinstance(data, str) else data
        shape = self.put(struct.pack(f"<{len(dims)}I", *dims))
        tensor = self.put(struct.pack("<IIIII", shape, len(dims), kind, self.put(data), len(data)))
        check(self.call("set_input", context, index, tensor))

    def compute(self, context: int) -> None:
        check(self.call("compute", context))

    def get(self, context: int, index: int = 0, room: int = 1 << 20, function: str = "get_output") -> bytes:
        if not hasattr(self, "_buffer") or self._room < room:
            self._buffer, self._room = self.put(bytes(room)), room
        written = self.out()
        check(self.call(function, context, index, self._buffer, room, written))
        return self.read(self._buffer, self.word(written))

    def single(self, context: int) -> list[bytes]:
        """Make a reply token by token, as guests do: until an errno, which is raised unless it is the end."""
        pieces = []
        while (status := self.call("compute_single", context)) == 0:
            pieces.append(self.get(context, function="get_output_single"))
        if status != 100:
            raise Errno(status)
        return pieces

    def close(self) -> None:
        self.nn.close()
        self.store.close()


class Errno(Exception):
    """A host function answered other than success."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def check(status: int) -> None:
    if status:
        raise Errno(status)


def errno_of(call: Callable[[], Any]) -> int:
    """Return the errno with which a call fails."""
    with pytest.raises(Errno) as raised:
        call()
    return raised.value.number
