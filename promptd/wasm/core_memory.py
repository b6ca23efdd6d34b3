"""A core module's memory, as one host call sees it: every pointer and length a guest gives is checked here.

A call takes the memory anew, since it moves when it grows, and copies what it reads: nothing aliases it afterwards.
"""

from __future__ import annotations

import ctypes
import struct

from wasmtime import Caller, Memory

from promptd.errors import InvalidArgument

WORD = 4
"""Bytes of a u32, and what pointers to one are aligned to."""


class NoMemory(Exception):
    """The guest exports no memory that a host function could read its arguments from."""


class GuestMemory:
    """The memory a guest exports. All methods raise InvalidArgument for what is outside of it, or not aligned."""

    def __init__(self, caller: Caller) -> None:
        """Find the memory of the calling guest; raises NoMemory."""
        memory = caller.get("memory")
        if not isinstance(memory, Memory):
            raise NoMemory
        self._size = memory.data_len(caller)
        self._base = ctypes.addressof(memory.data_ptr(caller).contents) if self._size else 0

    def check(self, pointer: int, length: int) -> None:
        """Raise unless all of `length` bytes at `pointer` are there."""
        if pointer + length > self._size:
            raise InvalidArgument(f"{length} bytes at {pointer} are outside the guest's memory of {self._size}")

    def check_words(self, pointer: int, count: int = 1) -> None:
        """Raise unless `count` aligned u32 at `pointer` are there."""
        if pointer % WORD:
            raise InvalidArgument(f"the pointer {pointer} is not aligned to {WORD} bytes")
        self.check(pointer, count * WORD)

    def read(self, pointer: int, length: int) -> bytes:
        """Return a copy of the bytes there."""
        self.check(pointer, length)
        return ctypes.string_at(self._base + pointer, length) if length else b""

    def read_text(self, pointer: int, length: int) -> str:
        """Return the UTF-8 text there."""
        try:
            return self.read(pointer, length).decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("the name is not UTF-8") from error

    def read_words(self, pointer: int, count: int) -> tuple[int, ...]:
        """Return the u32 there; with a count of 0 the pointer means nothing."""
        if not count:
            return ()
        self.check_words(pointer, count)
        return struct.unpack(f"<{count}I", self.read(pointer, count * WORD))

    def write(self, pointer: int, data: bytes) -> None:
        """Put `data` there."""
        self.check(pointer, len(data))
        if data:
            ctypes.memmove(self._base + pointer, data, len(data))

    def write_word(self, pointer: int, value: int) -> None:
        """Put a u32 there."""
        self.check_words(pointer)
        self.write(pointer, value.to_bytes(WORD, "little"))
