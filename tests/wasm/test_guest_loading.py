"""Files that are no guests, and guests that ask for what is not offered: one clear sentence each."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest
import wat
from wasmtime import wat2wasm

from promptd.errors import InvalidEncoding, NotFound, PromptdError, UnsupportedOperation
from promptd.wasm.runtime import Runtime

COMPONENT = bytes(wat2wasm(wat.ECHO_LINES))
CORE = bytes(wat2wasm('(module (func (export "_start")))'))

NOT_WEBASSEMBLY = {
    "an empty file": (b"", "is empty"),
    "a text file": (b"Dear reader,\nthis is not a guest.\n", "is a text file, not WebAssembly"),
    "another text file": (b"(define (f x) x)", "is a text file, not WebAssembly"),
    "a GGUF model": (b"GGUF\x03\0\0\0", "is a GGUF model; a model is given with --graph NAME=FILE"),
    "a native program": (b"\x7fELF\x02\x01\x01", "is a native or precompiled program"),
    "a zip archive": (b"PK\x03\x04....", "is a zip archive"),
    "a gzip file": (gzip.compress(COMPONENT), "is gzip compressed; unpack it first"),
    "a script": (b"#!/bin/sh\necho hi\n", "is a script"),
    "noise": (b"\xff\xfe\x00\x01noise", "is not WebAssembly: it begins with ff fe 00 01"),
    "four bytes of a guest": (COMPONENT[:4], "is cut off: it holds 4 bytes"),
    "half a component": (COMPONENT[: len(COMPONENT) // 2], "is cut off: unexpected end-of-file"),
    "half a module": (CORE[:-2], "is cut off: unexpected end"),
    "another version": (b"\0asm\x63\0\0\0", "is WebAssembly of an unknown version 63 00 00 00"),
    "an invalid module": (
        bytes(wat2wasm('(module (func (export "_start") (result i32) i64.const 1))')),
        "is not valid WebAssembly: Invalid input WebAssembly code at offset",
    ),
    "faulty WebAssembly text": (b"(module\n  (func nonsense))", "is not valid WebAssembly text"),
}


@pytest.mark.parametrize(("content", "sentence"), NOT_WEBASSEMBLY.values(), ids=NOT_WEBASSEMBLY)
def test_what_is_no_webassembly_is_refused_by_name(
    runtime: Runtime, tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(content)
    with pytest.raises(InvalidEncoding) as refused:
        runtime.load(path)
    assert str(refused.value).startswith(f"{path} {sentence}")
    assert "\n" not in str(refused.value)


def test_a_fault_in_webassembly_text_is_told_with_its_place(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "guest.wat"
    path.write_text("(module\n  (func nonsense))")
    with pytest.raises(InvalidEncoding, match=r"at line 2, column 9$"):
        runtime.load(path)


def test_a_file_that_is_not_there_is_not_found(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no guest file"):
        runtime.load(tmp_path / "missing.wasm")
    with pytest.raises(NotFound, match=r"cannot read the guest file .*: Is a directory"):
        runtime.load(tmp_path)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(runtime: Runtime, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "guest.wasm")
    with pytest.raises(InvalidEncoding, match=r"guest\.wasm is no regular file"):
        runtime.load(tmp_path / "guest.wasm")


NOT_OFFERED = {
    "wasi:http": (
        '(component (import "wasi:http/types@0.2.0" (instance (export "x" (func)))))',
        "imports wasi:http/types@0.2.0, which promptd does not offer: a guest has no network",
    ),
    "another version of wasi:nn": (
        '(component (import "wasi:nn/graph@0.3.0" (instance)))',
        "imports wasi:nn/graph@0.3.0, which promptd does not offer; "
        "it offers wasi:nn at 0.2.0-rc-2024-06-25, 0.2.0-rc-2024-08-19, 0.2.0-rc-2024-10-28, 0.2.0-rc-phase-3, "
        "and without a version",
    ),
    "WASI 0.3": (
        '(component (import "wasi:cli/exit@0.3.0" (instance (export "exit" (func)))))',
        "imports wasi:cli/exit@0.3.0, which promptd does not offer; it offers WASI 0.2",
    ),
    "a package nobody knows": (
        '(component (import "acme:rockets/launch" (instance (export "now" (func)))))',
        "imports acme:rockets/launch, which promptd does not offer; it offers WASI 0.2, wasi:nn and promptd:prompt",
    ),
    "a function nobody knows": (
        '(component (import "wasi:nn/prompt@0.2.0-rc-phase-3" (instance (export "destroy" (func)))))',
        "imports destroy of wasi:nn/prompt@0.2.0-rc-phase-3, which that interface does not have",
    ),
    "a WASI function nobody knows": (
        '(component (import "wasi:cli/exit@0.2.0" (instance (export "explode" (func)))) '
        '(instance $r) (export "wasi:cli/run@0.2.0" (instance $r)))',
        "imports wasi:cli/exit@0.2.0 in a form promptd does not offer: function implementation is missing",
    ),
    "a component that exports nothing": (
        "(component)",
        "has nothing to run: promptd calls wasi:cli/run or promptd:prompt/handler@0.1.0, and it exports nothing",
    ),
    "a library component": (
        '(component (instance $i) (export "acme:sky/fly" (instance $i)))',
        "has nothing to run: promptd calls wasi:cli/run or promptd:prompt/handler@0.1.0, and it exports acme:sky/fly",
    ),
    "a handler of another form": (
        wat.HANDLER.replace("(error $error)))\n    (canon", "(error string)))\n    (canon"),
        "exports promptd:prompt/handler@0.1.0 in another form than wit/promptd-prompt.wit; rebuild it",
    ),
    "a core library": ('(module (func (export "f")))', "has nothing to run: it exports no function _start"),
    "a core module from emscripten": (
        '(module (import "env" "abort" (func)) (func (export "_start")))',
        "imports abort of env, which promptd does not offer to core modules",
    ),
    "a preview1 function nobody knows": (
        '(module (import "wasi_snapshot_preview1" "explode" (func)) (func (export "_start")))',
        "cannot be linked: unknown import: `wasi_snapshot_preview1::explode` has not been defined",
    ),
    "shared memory": (
        '(module (memory 1 2 shared) (func (export "_start")))',
        "is not valid WebAssembly",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), NOT_OFFERED.values(), ids=NOT_OFFERED)
def test_what_is_not_offered_is_named(runtime: Runtime, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "guest.wat"
    path.write_text(text)
    with pytest.raises(PromptdError) as refused:
        runtime.load(path)
    assert str(refused.value).startswith(f"{path} {sentence}")
    assert isinstance(refused.value, InvalidEncoding if "valid" in sentence else UnsupportedOperation)


def test_a_component_a_module_and_their_text_are_told_apart(runtime: Runtime, tmp_path: Path) -> None:
    for content, name, format in (
        (COMPONENT, "a.wasm", "component"),
        (wat.ECHO_LINES.encode(), "a.wat", "component"),
        (b';; a comment\n(module (func (export "_start")))', "b.wasm", "core"),
        (CORE, "b.bin", "core"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        guest = runtime.load(path)
        assert (guest.format, guest.is_command, guest.is_handler) == (format, True, False)
        assert (guest.name, len(guest.digest)) == (path.stem, 64)


def test_a_guest_knows_what_it_is_and_whether_it_wants_graphs(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "guest.wat"
    path.write_text(wat.HANDLER)
    handler = runtime.load(path, name="helper")
    assert (handler.name, handler.is_handler, handler.is_command, handler.graphs_wanted) == (
        "helper",
        True,
        False,
        True,
    )
    path.write_text(wat.ECHO_LINES)
    assert not runtime.load(path).graphs_wanted


def test_start_functions_that_never_end_do_not_hold_up_loading(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "guest.wat"
    path.write_text(
        """(component
      (core module $m (func $s (loop $l (br $l))) (start $s) (func (export "run") (result i32) (i32.const 0)))
      (core instance $main (instantiate $m))"""
        + wat.RUN
        + ")"
    )
    assert runtime.load(path).is_command


def sleeping_start(seconds: int) -> str:
    return f"""(component
  {wat.SLEEP}{wat.SLEEP_LOWERINGS}
  (core module $m
    {wat.SLEEP_GIVEN}
    (func $s (call $block (call $after (i64.const {seconds}_000_000_000))))
    (start $s)
    (func (export "run") (result i32) (i32.const 0)))
  (core instance $main (instantiate $m (with "" (instance
    (export "after" (func $after)) (export "block" (func $block))))))
  {wat.RUN})"""


def test_a_start_function_that_sleeps_in_wasi_is_refused(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptd.wasm.runtime.TRIAL_S", 1.0)
    path = tmp_path / "guest.wat"
    path.write_text(sleeping_start(2))
    with pytest.raises(UnsupportedOperation, match=r"guest\.wat sleeps while it is instantiated: .* more than 1 s"):
        runtime.load(path)
    assert runtime.sleepers == 1
    while runtime.sleepers:
        time.sleep(0.05)
