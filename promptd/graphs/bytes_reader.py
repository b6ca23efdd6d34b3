"""Bounded little-endian reading of an open file: no length in the file is believed before it is compared with what
the file has left.
"""

from __future__ import annotations

import os
import struct
from typing import Any, NoReturn

WINDOW = 1 << 20
"""Bytes read at once. Read, not mapped: a mapped file that somebody shortens kills the process with SIGBUS."""

_LENGTH = struct.Struct("<Q")


class Damaged(Exception):
    """The file is not what it should be; the text completes "it is damaged: ..."."""


class BytesReader:
    """A cursor over the first `size` bytes of a file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self.position = 0
        self._descriptor = descriptor
        self._window = b""
        self._start = 0

    def take(self, count: int, what: str) -> bytes:
        """Return the next `count` bytes."""
        offset = self._reach(count, what)
        self.position += count
        return self._window[offset : offset + count]

    def number(self, form: str, what: str) -> Any:
        """Return the next number of a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self, limit: int, what: str, *, strict: bool = True) -> str:
        """Return the next string, of at most `limit` bytes; where it is not UTF-8, refuse it or, if not `strict`,
        mend it.
        """
        length = self.number("<Q", what)
        self._check(length, what)
        if length > limit:
            self._refuse(f"{what} is {length} bytes long, and at most {limit} are accepted")
        data = self.take(length, what)
        try:
            return data.decode("utf-8", errors="strict" if strict else "replace")
        except UnicodeDecodeError:
            self._refuse(f"{what} is not UTF-8")

    def skip_numbers(self, form: str, count: int, what: str) -> None:
        """Pass over `count` numbers."""
        length = count * struct.calcsize(form)
        self._check(length, what)
        self.position += length

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over `count` strings; vocabularies have hundreds of thousands, so this is the one tight loop."""
        self._check(count * _LENGTH.size, what)
        position, size, unpack = self.position, self.size, _LENGTH.unpack_from
        window, start, end = self._window, self._start, self._start + len(self._window)
        for _ in range(count):
            if position + _LENGTH.size > end:
                self.position = position
                self._reach(_LENGTH.size, what)
                window, start, end = self._window, self._start, self._start + len(self._window)
            position += _LENGTH.size + unpack(window, position - start)[0]
            if position > size:
                self._cut_short(what)
        self.position = position

    def _reach(self, count: int, what: str) -> int:
        """Have the next `count` bytes in the window and return where in it they begin."""
        self._check(count, what)
        offset = self.position - self._start
        if offset < 0 or offset + count > len(self._window):
            self._window = os.pread(self._descriptor, max(count, WINDOW), self.position)
            self._start, offset = self.position, 0
            if len(self._window) < count:
                self._cut_short(what)
        return offset

    def _check(self, count: int, what: str) -> None:
        if count > self.size - self.position:
            self._cut_short(what)

    def _cut_short(self, what: str) -> NoReturn:
        self._refuse(f"it is cut short at {what}: the file has {self.size} bytes")

    @staticmethod
    def _refuse(reason: str) -> NoReturn:
        raise Damaged(reason)
