"""Reads a guest's file: WebAssembly binary or text, and one clear sentence for whatever else it may be."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

from wasmtime import WasmtimeError, wat2wasm

from promptd.errors import InvalidEncoding, NotFound

Format = Literal["component", "core"]

MAGIC = b"\0asm"
_LAYERS: dict[bytes, Format] = {b"\x01\x00\x00\x00": "core", b"\x0d\x00\x01\x00": "component"}
"""Bytes 4 to 8: version and layer, https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md."""

_OTHER_FILES = (
    (b"GGUF", "is a GGUF model; a model is given with --graph NAME=FILE"),
    (b"\x7fELF", "is a native or precompiled program; give the .wasm file it was made from"),
    (b"\xcf\xfa\xed\xfe", "is a native program; a guest is a .wasm file"),
    (b"MZ", "is a native program; a guest is a .wasm file"),
    (b"PK\x03\x04", "is a zip archive; a guest is a .wasm file"),
    (b"\x1f\x8b", "is gzip compressed; unpack it first"),
    (b"#!", "is a script; a guest is a .wasm file"),
)

_TEXT_START = re.compile(r"\A(?:\s|;;[^\n]*\n|\(;.*?;\))*\(\s*(?:module|component)\b", re.DOTALL)


def read_guest(path: Path) -> tuple[bytes, Format]:
    """Return the binary of the guest in `path`, and which kind of binary it is.

    Raises NotFound where there is no such file, InvalidEncoding where it holds no WebAssembly.
    """
    try:
        content = _read_regular(path)
    except FileNotFoundError:
        raise NotFound(f"there is no guest file {path}") from None
    except OSError as error:
        raise NotFound(f"cannot read the guest file {path}: {error.strerror}") from error
    if not content.startswith(MAGIC):
        content = _from_text(path, content)
    if len(content) < 8:
        raise InvalidEncoding(f"{path} is cut off: it holds {len(content)} bytes of a WebAssembly file")
    layer = _LAYERS.get(content[4:8])
    if layer is None:
        raise InvalidEncoding(
            f"{path} is WebAssembly of an unknown version {content[4:8].hex(' ')}; build it with current tools"
        )
    return content, layer


def _read_regular(path: Path) -> bytes:
    # Without O_NONBLOCK, to open a FIFO is to wait for its writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidEncoding(f"{path} is no regular file; a guest is a .wasm file")
        return file.read()


def _from_text(path: Path, content: bytes) -> bytes:
    if not content:
        raise InvalidEncoding(f"{path} is empty; a guest is a WebAssembly file")
    for magic, what in _OTHER_FILES:
        if content.startswith(magic):
            raise InvalidEncoding(f"{path} {what}")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InvalidEncoding(
            f"{path} is not WebAssembly: it begins with {content[:4].hex(' ')}, not 00 61 73 6d"
        ) from None
    if not _TEXT_START.match(text) and path.suffix != ".wat":
        raise InvalidEncoding(f"{path} is a text file, not WebAssembly; a guest is a .wasm or .wat file")
    try:
        return bytes(wat2wasm(text))
    except WasmtimeError as error:
        raise InvalidEncoding(f"{path} is not valid WebAssembly text: {_first_fault(str(error))}") from error


def _first_fault(message: str) -> str:
    """Return the fault and its place from wat2wasm's report of several lines."""
    fault = message.strip().splitlines()[0]
    place = re.search(r":(\d+):(\d+)\n", message)
    return f"{fault} at line {place[1]}, column {place[2]}" if place else fault


def compile_fault(path: Path, message: str) -> InvalidEncoding:
    """Return the error for a file that wasmtime would not compile, with the innermost cause of its report."""
    causes = [re.sub(r"^\d+: ", "", line.strip()) for line in message.splitlines() if line.strip()]
    cause = causes[-1] if causes else "no reason given"
    if "unexpected end" in cause:
        return InvalidEncoding(f"{path} is cut off: {cause}")
    return InvalidEncoding(f"{path} is not valid WebAssembly: {cause}")
