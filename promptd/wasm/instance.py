"""An instance of a guest: its own Store, linker and WASI context, made for one session and never used again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wasmtime import Engine, ExitTrap, Linker, Module, Store, Trap, WasiConfig, WasmtimeError
from wasmtime.component import Component, Func, Instance, Variant
from wasmtime.component import Linker as ComponentLinker

from promptd.chat import Message
from promptd.errors import BY_NAME, InvalidArgument
from promptd.wasm.component_lines import answer_reads
from promptd.wasm.control import Control
from promptd.wasm.face import bind, record
from promptd.wasm.grants import Grant
from promptd.wasm.guest import HANDLER, Guest
from promptd.wasm.nn import Nn
from promptd.wasm.stdio import Streams
from promptd.wasm.unwrapped import on_epoch

TABLE_ELEMENTS_LIMIT = 1 << 18
TABLES_LIMIT = 64
INSTANCES_LIMIT = 512
"""Bounds of what the memory limit does not count; many times what the guests of guest toolchains need."""

WASM_ERRORS = (WasmtimeError, Trap)
"""What wasmtime-py raises for a guest that trapped: of a component the first, of a core module either."""


class GuestInstance:
    """Made, used and closed by one thread at a time; making and calling it run guest code."""

    def __init__(self, engine: Engine, guest: Guest, grant: Grant, streams: Streams, control: Control, nn: Nn) -> None:
        self._guest = guest
        self._store = Store(engine)
        try:
            self._store.set_wasi(_wasi(guest, grant, streams))
            self._store.set_limits(
                memory_size=grant.limits.memory // guest.memories,
                table_elements=TABLE_ELEMENTS_LIMIT,
                instances=INSTANCES_LIMIT,
                tables=TABLES_LIMIT,
                memories=guest.memories,
            )
            on_epoch(self._store, control.may_go_on)
            if isinstance(guest.code, Component):
                self._component = self._instantiate(engine, guest, guest.code, streams, nn, control)
            else:
                self._start = self._instantiate_core(engine, guest, guest.code, grant, streams, nn, control)
        except BaseException:
            self.close()
            raise

    def _instantiate(
        self, engine: Engine, guest: Guest, code: Component, streams: Streams, nn: Nn, control: Control
    ) -> Instance:
        with ComponentLinker(engine) as linker:
            linker.add_wasip2()
            if streams.lines is not None:
                answer_reads(linker, streams.lines, control)
            with linker.root() as root:
                for each in guest.imports:
                    with root.add_instance(each.name) as instance:
                        bind(instance, each.face, each.functions, nn, control)
            control.enter_wasm()
            made: Instance = linker.instantiate(self._store, code)
            return made

    def _instantiate_core(
        self, engine: Engine, guest: Guest, code: Module, grant: Grant, streams: Streams, nn: Nn, control: Control
    ) -> Callable[..., Any]:
        with Linker(engine) as linker:
            if guest.core is not None:
                guest.core.bind(
                    linker,
                    self._store,
                    nn,
                    control,
                    streams.print,
                    wasmedge=grant.wasmedge,
                    lines=streams.lines,
                )
            control.enter_wasm()
            start: Any = linker.instantiate(self._store, code).exports(self._store)["_start"]
        return lambda: start(self._store)

    def run(self) -> int:
        """Run a command to its end and return its exit code."""
        try:
            if self._guest.format == "core":
                self._start()
                return 0
            result: Variant = self._export(self._guest.run or "", "run")(self._store)
            return 0 if result.tag == "ok" else 1
        except ExitTrap as exit:
            return exit.code

    def respond(self, messages: Sequence[Message]) -> str:
        """Let a handler answer; its own error becomes the PromptdError of its case."""
        respond = self._export(HANDLER, "respond")
        # wasmtime-py gives the bare payload of a result whose sides are of different Python classes.
        result: str | Variant = respond(
            self._store, [record(role=each.role, content=each.content) for each in messages]
        )
        if isinstance(result, str):
            return result
        raise BY_NAME[result.tag](f"guest {self._guest.name} failed: {result.payload}")

    def _export(self, interface: str, name: str) -> Func:
        outer = self._component.get_export_index(self._store, interface)
        inner = self._component.get_export_index(self._store, name, outer)
        function = self._component.get_func(self._store, inner) if inner else None
        if function is None:
            raise InvalidArgument(f"guest {self._guest.name} exports no function {name} in {interface}")
        return function

    def close(self) -> None:
        """Free the store and everything in it."""
        self._store.close()


def _wasi(guest: Guest, grant: Grant, streams: Streams) -> WasiConfig:
    """Return a WASI context that holds what is granted and no more: no network, and no name look-up."""
    wasi = WasiConfig()
    wasi.argv = [guest.path.name, *grant.args]
    wasi.env = list(grant.env.items())
    for each in grant.dirs:
        try:
            wasi.preopen_dir(str(each.host), each.guest, each.writable)
        except WasmtimeError:
            raise InvalidArgument(
                f"cannot grant the directory {each.host}: it is not a directory this user can open"
            ) from None
    streams.attach(wasi, printing=guest.core is not None and guest.core.wants_graphs)
    return wasi
