"""Faults of wasmtime-py 50.0.1 that a host of many guests cannot live with, each mended here and nowhere else.

`apply` replaces the faulty functions in the `wasmtime` package of this process. It was checked against wasmtime-py
50.0.1 only; tests/wasm/test_fixes.py runs every fault against the unpatched package and fails when upstream has mended
one, so that its fix can go. The sources are https://github.com/bytecodealliance/wasmtime-py/tree/50.0.1/wasmtime.

| fault | where upstream | what it does |
|---|---|---|
| shared last exception | component/_enter.py, _func.py: LAST_EXCEPTION | a thread raises the exception of another |
| BaseException escapes | component/_enter.py: `except Exception` | KeyboardInterrupt in a host function is a SIGSEGV |
| stale exception | component/_linker.py: instantiate | the next failing call raises an exception of this one |
| shared scratch set | component/_types.py: case_test_cache | two threads at once: a result becomes the wrong case |
| greedy untagged case | component/_types.py: VariantLikeType._lower | `result<option<T>, E>` cannot return an error |
| unfreed box | component/_types.py: convert_from_c of options, results, variants | 48 bytes leak with each payload |
| slow bytes | component/_types.py: ListType | list<u8> costs a Python object and about 1 us for each byte |
"""

from __future__ import annotations

import ctypes
import threading
from importlib.metadata import version
from typing import Any

from wasmtime import Caller, Store, StoreContext, Trap, Val, WasmtimeError, _ffi, _func
from wasmtime import _linker as _core_linker
from wasmtime.component import Component, Instance, Linker, Variant, _enter, _linker, _types

CHECKED_VERSION = "50.0.1"

_raised = threading.local()
"""The exception a host function of this thread raised last, until the call that caused it raises it again."""


class Case(Variant):
    """A named case of a result or variant; unlike a `Variant` it may stand where upstream wants the bare payload."""


def apply() -> None:
    """Mend wasmtime-py in this process; calling it again changes nothing. RuntimeError beside another wasmtime."""
    if version("wasmtime").partition(".")[0] != CHECKED_VERSION.partition(".")[0]:
        raise RuntimeError(
            f"promptd needs wasmtime {CHECKED_VERSION}, not {version('wasmtime')}: pip install 'wasmtime<51'"
        )
    for owner, name, mended in _FIXES:
        setattr(owner, name, mended)


def _catch_exceptions(context: Any, call: Any) -> int:
    """Run a component's host function; any exception becomes a trap, and is remembered for the calling thread."""
    store = StoreContext(context)
    try:
        call(store)
    except WasmtimeError as error:
        return _address(error._consume())
    except BaseException as error:
        _raised.exception = error
        return _address(WasmtimeError("python exception")._consume())
    finally:
        store._invalidate()
    return 0


def _raise_remembered() -> None:
    exception = getattr(_raised, "exception", None)
    if exception is not None:
        _raised.exception = None
        raise exception


def _run_core(index: Any, caller_pointer: Any, params: Any, count: Any, results: Any, result_count: Any) -> Any:
    """Run a core module's host function: upstream's `trampoline`, with the exception remembered per thread."""
    caller = Caller(caller_pointer)
    try:
        function, result_types, access_caller = _func.FUNCTIONS.get(index or 0)
        arguments: list[Any] = [caller] if access_caller else []
        arguments += [Val._from_raw(caller, params[i], owned=False).value for i in range(count)]
        returned = function(*arguments)
        values = [] if returned is None else [returned] if result_count == 1 else list(returned)
        if len(values) != result_count:
            raise WasmtimeError(f"host function returned {len(values)} results, not {result_count}")
        for i, value in enumerate(values):
            results[i] = Val._convert_to_raw(caller, result_types[i], value)
        return 0
    except BaseException as error:
        _raised.exception = error
        return _address(Trap("python exception")._consume())
    finally:
        caller._invalidate()


_trampoline = _ffi.wasmtime_func_callback_t(_run_core)

_upstream_instantiate = Linker.instantiate


def _instantiate(self: Linker, store: Store, component: Component) -> Instance:
    try:
        return _upstream_instantiate(self, store, component)
    except WasmtimeError:
        _raise_remembered()
        raise


def _lower(self: Any, store: Any, value: Any) -> tuple[str, Any]:
    """Find the case of `value` and convert its payload: upstream's `_lower`, but no shared set, and `Case`."""
    tagged = self._tagged() or isinstance(value, Case)
    if tagged and not isinstance(value, Variant):
        raise TypeError("expected Variant type")
    for name, payload_type in self._cases():
        if tagged:
            if name != value.tag:
                continue
        elif payload_type is None:
            if value is not None:
                continue
        else:
            classes: set[type] = set()
            payload_type.add_classes(classes)
            if not isinstance(value, tuple(classes)):
                continue
        if payload_type is None:
            return (name, None)
        raw = _ffi.wasmtime_component_val_t()
        payload_type.convert_to_c(store, value.payload if tagged else value, ctypes.pointer(raw))
        return (name, _ffi.wasmtime_component_val_new(ctypes.byref(raw)))
    raise ValueError("value not valid for this variant")


def _take(owner: Any, field: str) -> Any:
    """Take a box from its owner; None where there is none."""
    return _ffi.take_pointer(owner, field) if getattr(owner, field) else None


def _option_from_c(self: Any, raw: Any) -> Any:
    box = _take(raw.of, "option")
    return _payload_from_c(self, "some" if box else "none", box)


def _result_from_c(self: Any, raw: Any) -> Any:
    return _payload_from_c(self, "ok" if raw.of.result.is_ok else "err", _take(raw.of.result, "val"))


def _variant_from_c(self: Any, raw: Any) -> Any:
    tag = _ffi.to_str(raw.of.variant.discriminant)
    _ffi.wasm_byte_vec_delete(ctypes.byref(raw.of.variant.discriminant))
    return _payload_from_c(self, tag, _take(raw.of.variant, "val"))


def _payload_from_c(self: Any, tag: str, box: Any) -> Any:
    """Convert what a case holds, and free the box it came in, which its owner has given up.

    Upstream leaves the box to the owner, which is told that the value holds nothing any more, and so leaks it; only a
    host function's own arguments are freed with all there is in them.
    """
    try:
        return self._lift(tag, box)
    finally:
        if box:
            _ffi.wasmtime_component_val_free(box)


_VALUE = _ffi.wasmtime_component_val_t
_STRIDE, _PAYLOAD = ctypes.sizeof(_VALUE), _VALUE.of.offset
_U8_KIND = bytes([_ffi.WASMTIME_COMPONENT_U8.value])
_upstream_list_to_c = _types.ListType.convert_to_c
_upstream_list_from_c = _types.ListType.convert_from_c


def _list_to_c(self: Any, store: Any, value: Any, pointer: Any) -> None:
    """Write bytes into the C API's array of values with two strided copies."""
    if not isinstance(value, bytes | bytearray | memoryview) or not self._is_bytes():
        _upstream_list_to_c(self, store, value, pointer)
        return
    size = len(value)
    raw = _ffi.wasmtime_component_vallist_t()
    _ffi.wasmtime_component_vallist_new_uninit(raw, size)
    if size:
        view = _bytes_of(raw, size)
        view[0::_STRIDE] = _U8_KIND * size
        view[_PAYLOAD::_STRIDE] = value
    pointer.contents.kind = _ffi.WASMTIME_COMPONENT_LIST
    pointer.contents.of.list = raw


def _list_from_c(self: Any, raw: Any) -> Any:
    """Read bytes from the C API's array of values with one strided copy."""
    if not self._is_bytes():
        return _upstream_list_from_c(self, raw)
    try:
        size = raw.of.list.size
        return _bytes_of(raw.of.list, size)[_PAYLOAD::_STRIDE].tobytes() if size else b""
    finally:
        _ffi.wasmtime_component_vallist_delete(ctypes.byref(raw.of.list))


def _bytes_of(values: Any, size: int) -> memoryview:
    array = (ctypes.c_uint8 * (size * _STRIDE)).from_address(ctypes.addressof(values.data.contents))
    return memoryview(array).cast("B")


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


_FIXES: tuple[tuple[Any, str, Any], ...] = (
    (_linker, "catch_exceptions", _catch_exceptions),
    (_enter, "catch_exceptions", _catch_exceptions),
    (_enter, "maybe_raise_last_exn", _raise_remembered),
    (_func, "maybe_raise_last_exn", _raise_remembered),
    (_func, "trampoline", _trampoline),
    (_core_linker, "trampoline", _trampoline),
    (Linker, "instantiate", _instantiate),
    (_types.VariantLikeType, "_lower", _lower),
    (_types.OptionType, "convert_from_c", _option_from_c),
    (_types.ResultType, "convert_from_c", _result_from_c),
    (_types.VariantType, "convert_from_c", _variant_from_c),
    (_types.ListType, "convert_to_c", _list_to_c),
    (_types.ListType, "convert_from_c", _list_from_c),
)
