"""How a core module is linked: WASI preview 1, the core ABIs of wasi-nn, and what guests built for WasmEdge need beside
them.

| what | why |
|---|---|
| a session's lines, read by `fd_read` in a host call | a read that blocks in wasmtime holds one of its few threads |
| a guard around `fd_read` | an interactive guest asks for its next line for ever where its standard input has ended |
| WasmEdge's sockets, which answer `notsup` | a guest that could serve HTTP still links, and can do all the rest |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmtime import Caller, Engine, Func, FuncType, Instance, Linker, Memory, Module, Store, ValType, WasmtimeError

from promptd.errors import InvalidArgument, UnsupportedOperation
from promptd.wasm.control import Control, Stopped
from promptd.wasm.core import MODULES, CoreFace, host_function
from promptd.wasm.core_memory import GuestMemory, NoMemory
from promptd.wasm.core_nn import CoreNn
from promptd.wasm.lines import Lines
from promptd.wasm.nn import Nn
from promptd.wasm.traps import GuestTrap

WASI_1 = ("wasi_snapshot_preview1", "wasi_unstable")

EMPTY_READS_LIMIT = 16
"""Most times in a row a guest may find its standard input at its end."""

NOTSUP = 58
FAULT = 21
"""WASI preview 1's errnos for what is not supported, and for a bad address:
https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md#errno"""

_U32 = 0xFFFFFFFF

_SOCKETS = re.compile(r"sock_|epoll_oneoff$")
"""WasmEdge's own functions in `wasi_snapshot_preview1` (include/host/wasi/wasifunc.h), which WASI lacks or types
differently."""

_WASI_SOCKETS = {"sock_accept": 3, "sock_recv": 6, "sock_send": 5, "sock_shutdown": 2}
"""The functions of that name in WASI, and how many parameters they have."""

_READER = """
(module
  (import "guest" "memory" (memory 0))
  (import "wasi" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (export "memory" (memory 0))
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32)
    (call $read (local.get 0) (local.get 1) (local.get 2) (local.get 3))))
"""
"""Calls wasmtime's `fd_read`, which looks for the memory in the exports of the module that calls it."""


@dataclass(frozen=True)
class CoreImports:
    """What a core module imports beside WASI as wasmtime has it."""

    functions: tuple[tuple[str, str], ...]
    """Functions of the core ABIs, by module and name."""
    sockets: tuple[tuple[str, str, FuncType], ...]
    """Functions of WasmEdge's own."""
    reads: tuple[str, ...]
    """The WASI modules it imports `fd_read` of."""
    reader: Module | None
    """What calls wasmtime's `fd_read`, compiled."""

    @property
    def wants_graphs(self) -> bool:
        """Whether it imports anything that leads to a model."""
        return bool(self.functions)

    @property
    def knows_wasmedge(self) -> bool:
        """Whether it imports an extension of WasmEdge's."""
        return any(MODULES[module][name].extension for module, name in self.functions)

    def declare(self, linker: Linker) -> None:
        """Define all of it, so that a guest links; nothing of it may be called."""
        linker.define_wasi()
        linker.allow_shadowing = True
        for module, name in self.functions:
            linker.define_func(module, name, _type_of(module, name), _unavailable)
        self._define_sockets(linker)

    def bind(
        self,
        linker: Linker,
        store: Store,
        nn: Nn,
        control: Control,
        print: Callable[[bytes], None],
        *,
        wasmedge: bool,
        lines: Lines | None = None,
    ) -> None:
        """Define all of it for one session, whose guest reads `lines` where there are any."""
        linker.define_wasi()
        linker.allow_shadowing = True
        face = CoreFace(CoreNn(nn, print), wasmedge=wasmedge or self.knows_wasmedge)
        for module, name in self.functions:
            function = host_function(name, MODULES[module][name], face, nn, control)
            linker.define_func(module, name, _type_of(module, name), function, access_caller=True)
        self._define_sockets(linker)
        for module in self.reads:
            original = linker.get(store, module, "fd_read")
            if isinstance(original, Func) and self.reader is not None:
                guard = _ReadGuard(self.reader, original, nn.guest, control, lines)
                linker.define_func(module, "fd_read", _type(4), guard.read, access_caller=True)

    def _define_sockets(self, linker: Linker) -> None:
        for module, name, kind in self.sockets:
            linker.define_func(module, name, kind, lambda *_arguments: NOTSUP)


class _ReadGuard:
    """Reads a session's lines, and ends a guest that goes on reading its standard input after the end."""

    def __init__(self, reader: Module, original: Func, guest: str, control: Control, lines: Lines | None) -> None:
        self._reader = reader
        self._original = original
        self._guest = guest
        self._control = control
        self._lines = lines
        self._read: Any = None
        self._empty = 0

    def read(self, caller: Caller, descriptor: int, buffers: int, count: int, out: int) -> int:
        """Do what `fd_read` does, and count."""
        if descriptor == 0 and self._lines is not None:
            status = self._read_lines(self._lines, caller, buffers & _U32, count & _U32, out & _U32)
        else:
            status = int(self._function(caller)(caller, descriptor, buffers, count, out))
        if descriptor == 0 and status == 0 and self._found_nothing(GuestMemory(caller), buffers, count, out):
            self._empty += 1
            if self._empty >= EMPTY_READS_LIMIT:
                self._control.stop(
                    GuestTrap(
                        f"guest {self._guest} was stopped: its standard input is at its end, and it read on"
                        f" {EMPTY_READS_LIMIT} times; give it its input, or its question as arguments"
                    )
                )
                raise Stopped
        elif descriptor == 0:
            self._empty = 0
        return status

    def _read_lines(self, lines: Lines, caller: Caller, buffers: int, count: int, out: int) -> int:
        """Fill the first buffer that has room, as a read of a pipe may; returns an errno."""
        try:
            memory = GuestMemory(caller)
            places = memory.read_words(buffers, 2 * count)
            memory.check_words(out)
            at, room = next(((at, room) for at, room in zip(places[::2], places[1::2], strict=True) if room), (0, 0))
            memory.check(at, room)
            data = lines.read(room) if room else b""
            memory = GuestMemory(caller)
            memory.write(at, data)
            memory.write_word(out, len(data))
        except (InvalidArgument, NoMemory):
            return FAULT
        self._control.check()
        return 0

    def _found_nothing(self, memory: GuestMemory, buffers: int, count: int, out: int) -> bool:
        """Whether a read that succeeded was at the end of the input: it had room, and got nothing."""
        (length,) = memory.read_words(out & _U32, 1)
        return length == 0 and any(memory.read_words(buffers & _U32, 2 * (count & _U32))[1::2])

    def _function(self, caller: Caller) -> Any:
        if self._read is None:
            memory = caller.get("memory")
            if not isinstance(memory, Memory):
                return self._original
            self._read = Instance(caller, self._reader, [memory, self._original]).exports(caller)["fd_read"]
        return self._read


def inspect_module(engine: Engine, path: Path, code: Module) -> CoreImports:
    """Return what the core module in `path` imports, after it was linked once on trial.

    Raises UnsupportedOperation when it imports what promptd does not offer, or exports nothing to run.
    """
    functions, sockets, reads = [], [], []
    for each in code.imports:
        module, name, kind = each.module, each.name or "", each.type
        if module in MODULES:
            _check_import(path, module, name, kind)
            functions.append((module, name))
        elif module not in WASI_1:
            raise UnsupportedOperation(
                f"{path} imports {name} of {module}, which promptd does not offer to core modules;"
                f" it offers {', '.join((WASI_1[0], *MODULES))}"
            )
        elif isinstance(kind, FuncType) and _SOCKETS.match(name) and _is_foreign(name, kind):
            sockets.append((module, name, kind))
        elif name == "fd_read":
            reads.append(module)
    reader = Module(engine, _READER) if reads else None
    imports = CoreImports(tuple(functions), tuple(sockets), tuple(reads), reader)
    _link(engine, path, code, imports)
    start = next((each for each in code.exports if each.name == "_start"), None)
    if start is None or not isinstance(start.type, FuncType) or start.type.params or start.type.results:
        raise UnsupportedOperation(
            f"{path} has nothing to run: it exports no function _start; build it as a command, not a library"
        )
    return imports


def _link(engine: Engine, path: Path, code: Module, imports: CoreImports) -> None:
    linker = Linker(engine)
    imports.declare(linker)
    try:
        linker.instantiate_pre(code)
    except WasmtimeError as error:
        raise UnsupportedOperation(f"{path} cannot be linked: {str(error).splitlines()[0]}") from error


def _check_import(path: Path, module: str, name: str, kind: Any) -> None:
    if name not in MODULES[module]:
        raise UnsupportedOperation(f"{path} imports {name} of {module}, which that module does not have")
    wanted = MODULES[module][name].parameters
    if not isinstance(kind, FuncType) or _shape(kind) != (["i32"] * wanted, ["i32"]):
        raise UnsupportedOperation(
            f"{path} imports {name} of {module} as another type than {wanted} u32 to an errno, which promptd offers"
        )


def _is_foreign(name: str, kind: FuncType) -> bool:
    """Whether a socket function is one of WasmEdge's, and answers an errno, as all of them do."""
    return _shape(kind)[1] == ["i32"] and _WASI_SOCKETS.get(name) != len(kind.params)


def _shape(kind: FuncType) -> tuple[list[str], list[str]]:
    return [str(each) for each in kind.params], [str(each) for each in kind.results]


def _type_of(module: str, name: str) -> FuncType:
    return _type(MODULES[module][name].parameters)


def _type(parameters: int) -> FuncType:
    return FuncType([ValType.i32()] * parameters, [ValType.i32()])


def _unavailable(*_arguments: Any) -> Any:
    raise Stopped
