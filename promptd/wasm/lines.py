"""Standard input that a guest waits for in a host call: the lines of a session.

A pipe would take one of the 512 threads wasmtime's tokio runtime has for reads that block, and show only by its
thread's system calls that the guest waits. Here the guest's own thread waits, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Lines:
    """Bytes from the thread that serves the guest to the guest's thread. Any thread may call all methods."""

    def __init__(self, wanted: Callable[[], None]) -> None:
        """`wanted` is called on the guest's thread when it begins to wait for more than there is."""
        self._wanted = wanted
        self._changed = threading.Condition()
        self._left = bytearray()
        self._ended = False
        self._waits = False

    def send(self, data: bytes) -> None:
        """Let the guest read `data`."""
        with self._changed:
            self._left += data
            self._waits = False
            self._changed.notify_all()

    def end(self) -> None:
        """Let the guest read the end, once it has read what was sent."""
        with self._changed:
            self._ended = True
            self._waits = False
            self._changed.notify_all()

    def cut(self) -> None:
        """Let the guest read the end now."""
        with self._changed:
            self._left.clear()
        self.end()

    @property
    def waits(self) -> bool:
        """Whether the guest has read all that was sent, and waits for more."""
        return self._waits

    def read(self, most: int) -> bytes:
        """Return up to `most` bytes, waiting for the first; none at the end."""
        with self._changed:
            if not self._left and not self._ended:
                self._waits = True
        if self._waits:
            self._wanted()
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._ended)
            data = bytes(self._left[:most])
            del self._left[:most]
            return data
