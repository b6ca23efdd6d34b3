"""The lines of a session for a component: WASI's reads of its standard input, answered on the guest's own thread.

wasmtime would read a pipe on one of 512 threads of its own, and show only by their system calls that the guest waits.
Its linker takes other functions in place of single ones of an interface, so the reads of streams are promptd's here,
and all else of streams stays wasmtime's. They cannot tell one stream from another. So this is for guests whose only
stream to read is the standard input: those that see no directory and do not splice streams.
"""

from __future__ import annotations

from typing import Any

from wasmtime import StoreContext
from wasmtime.component import Linker, ResourceAny

from promptd.wasm.control import Control
from promptd.wasm.fixes import Case
from promptd.wasm.lines import Lines

STREAMS = "wasi:io/streams@0.2.12"
"""The name wasmtime 50's linker has the interface under, for guests of any WASI 0.2."""

SPLICES = frozenset({"[method]output-stream.splice", "[method]output-stream.blocking-splice"})
"""Functions of it by which a guest reads a stream within wasmtime."""

MOST = 64 * 1024
"""Bytes of one read."""


def answer_reads(linker: Linker, lines: Lines, control: Control) -> None:
    """Let `lines` be what is read of every stream. Reads that need not wait wait as well.

    A guest asks for those after it was told that there is something to read, which wasmtime tells it at once.
    """

    def taken(store: StoreContext, stream: ResourceAny, most: int) -> bytes | None:
        stream.drop(store)  # lent to this call
        data = lines.read(min(most, MOST)) if most else b""
        control.check()
        return data if data or not most else None

    def read(store: StoreContext, stream: ResourceAny, most: int) -> Any:
        data = taken(store, stream, most)
        return _CLOSED if data is None else Case("ok", data)

    def skip(store: StoreContext, stream: ResourceAny, most: int) -> Any:
        data = taken(store, stream, most)
        return _CLOSED if data is None else Case("ok", len(data))

    linker.allow_shadowing = True
    with linker.root() as root, root.add_instance(STREAMS) as streams:
        for way in ("", "blocking-"):
            streams.add_func(f"[method]input-stream.{way}read", read)
            streams.add_func(f"[method]input-stream.{way}skip", skip)


_CLOSED = Case("err", Case("closed"))
