"""What happens in a session, numbered and kept for a while: a client that comes back goes on where it broke off."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from promptd.chat import Completion
from promptd.errors import InvalidArgument
from promptd.server.errors import Forgotten
from promptd.server.turn import Event

_EVENT_BYTES = 128
"""What an event takes beside its text."""


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
        """The oldest events are forgotten while all together take more than `limit` bytes; the last is always kept."""
        self._limit = limit
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
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popleft().event)
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

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _size(event: Event) -> int:
    text = event if isinstance(event, str) else event.text if isinstance(event, Completion) else str(event)
    return len(text) + _EVENT_BYTES
