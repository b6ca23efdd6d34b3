"""What happens in a session, numbered and kept for a while: a client that comes back goes on where it broke off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from promptd.chat import Completion
from promptd.errors import InvalidArgument
from promptd.server.errors import Forgotten
from promptd.server.turn import Event

_EVENT_BYTES = 128
"""What an event takes beside its text."""

BEHIND_LIMIT = 64 * 1024**2
"""Bytes of events that are kept for a client that reads more slowly than they happen; a guest may write 16 MiB."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """One event of a session: a piece of a reply, or how the reply ended."""

    number: int
    event: Event

    @property
    def is_last(self) -> bool:
        """Whether a reply ends with it."""
        return not isinstance(self.event, str)


class EventLog:
    """The events of one session, numbered from 1. All methods belong to one event loop."""

    def __init__(self, limit: int) -> None:
        """Of the events that every reader has had, the oldest are forgotten while all together take more than `limit`
        bytes; the last is always kept.
        """
        self._limit = limit
        self._readers: set[Reader] = set()
        self._kept: deque[Numbered] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._closed = False
        self.last = 0
        """The number of the last event; 0 before the first."""

    def add(self, event: Event) -> None:
        """Append an event."""
        self.last += 1
        self._kept.append(Numbered(self.last, event))
        self._bytes += _size(event)
        self._forget()
        self._wake()

    def close(self) -> None:
        """Say that no more events will come. Idempotent."""
        self._closed = True
        self._wake()

    def check(self, after: int) -> None:
        """Raise InvalidArgument if there never was an event `after`, and Forgotten if the next is no longer kept."""
        if not 0 <= after <= self.last:
            raise InvalidArgument(f"this session has no event {after}; its last one is {self.last}")
        if after < self.last and after + 1 < self._kept[0].number:
            raise Forgotten(self._kept[0].number)

    @contextmanager
    def reader(self, after: int) -> Iterator[Reader]:
        """Return a reader of the events after number `after`, for which they are kept in the block."""
        reader = Reader(self, after)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._forget()

    async def next(self, after: int, timeout_s: float | None = None) -> Numbered | None:
        """Return the first event after number `after`; None when `timeout_s` pass without one, or none will come.

        Raises as `check`.
        """
        if after == self.last and not self._closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        self.check(after)
        return self._kept[after + 1 - self._kept[0].number] if after < self.last else None

    @property
    def closed(self) -> bool:
        """Whether no more events will come."""
        return self._closed

    def _forget(self) -> None:
        had = min((reader.after for reader in self._readers), default=self.last)
        while len(self._kept) > 1 and self._bytes > (self._limit if self._kept[0].number <= had else BEHIND_LIMIT):
            self._bytes -= _size(self._kept.popleft().event)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Reader:
    """Where one client is in the events of a session; made by `EventLog.reader`."""

    def __init__(self, log: EventLog, after: int) -> None:
        self._log = log
        self.after = after
        """The number of the last event it has had."""

    async def next(self, timeout_s: float | None = None) -> Numbered | None:
        """Return the next event, None when `timeout_s` pass without one, or none will come; raises Forgotten."""
        event = await self._log.next(self.after, timeout_s)
        if event is not None:
            self.after = event.number
        return event


def _size(event: Event) -> int:
    text = event if isinstance(event, str) else event.text if isinstance(event, Completion) else str(event)
    return len(text) + _EVENT_BYTES
