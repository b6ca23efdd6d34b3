"""What wasmtime's C API 50.0.1 offers and wasmtime-py 50.0.1 does not wrap: epoch callbacks, and bytes as standard
input.

Both reach through the private `wasmtime._bindings`; tests/wasm/test_unwrapped.py fails when upstream wraps them.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

from wasmtime import Store, WasiConfig, WasmtimeError, _bindings, _ffi

_deciders: dict[int, Callable[[], bool]] = {}
_keys = itertools.count(1)

_TRAP_MESSAGE = "stopped by the host"
_CONTINUE = 0
"""`WASMTIME_UPDATE_DEADLINE_CONTINUE` of wasmtime/store.h."""


def on_epoch(store: Store, may_go_on: Callable[[], bool]) -> None:
    """Ask `may_go_on` at every tick of the epoch while wasm runs in `store`, on its thread; False traps the guest.

    The engine must have epoch interruption on. `may_go_on` is forgotten when the store is closed; it must not raise.
    """
    key = next(_keys)
    _deciders[key] = may_go_on
    _bindings.wasmtime_store_epoch_deadline_callback(store.ptr(), _epoch_reached, key, _forget)
    store.set_epoch_deadline(1)


def _ask(_context: Any, key: Any, ticks: Any, kind: Any) -> int:
    try:
        go_on = _deciders[key or 0]()
    except BaseException:
        go_on = False
    if go_on:
        ticks[0] = 1
        kind[0] = _CONTINUE
        return 0
    return ctypes.cast(WasmtimeError(_TRAP_MESSAGE)._consume(), ctypes.c_void_p).value or 0


def _drop(key: Any) -> None:
    _deciders.pop(key or 0, None)


_epoch_reached = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(_bindings.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(_bindings.wasmtime_update_deadline_kind_t),
)(_ask)
_forget = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_drop)


def set_stdin_bytes(wasi: WasiConfig, data: bytes) -> None:
    """Give a guest `data`, and then the end, as its standard input."""
    vector = _ffi.bytes_to_capi(data)
    _bindings.wasi_config_set_stdin_bytes(wasi.ptr(), ctypes.byref(vector))
