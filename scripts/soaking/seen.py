"""What the clients of one shift share: until when it lasts, whether they may ask, and what they have seen."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter

KILL_LASTS_S = 0.5
"""How long a daemon may take to notice that a worker was killed."""


class Seen:
    """One shift. All methods belong to one event loop."""

    def __init__(self, seconds: float, counts: Counter[str], losses: list[str]) -> None:
        """The shift lasts `seconds`; `counts` and `losses` are of all shifts."""
        self._until = time.monotonic() + seconds
        self._asking = asyncio.Event()
        self._asking.set()
        self._last_kill = -math.inf
        self._counts = counts
        self.losses = losses
        """Sentences about conversations that were lost."""

    @property
    def on(self) -> bool:
        """Whether the shift goes on."""
        return time.monotonic() < self._until

    def count(self, what: str) -> None:
        """Note that something has happened."""
        self._counts[what] += 1

    def count_kill(self) -> None:
        """Note that a worker was killed now."""
        self.count("workers killed")
        self._last_kill = time.monotonic()

    def killed_since(self, moment: float) -> bool:
        """Return whether a worker was killed since `moment`, a `time.monotonic()` value, or just before."""
        return self._last_kill >= moment - KILL_LASTS_S

    async def pause(self, seconds: float) -> None:
        """Sleep, at most to the end of the shift."""
        await asyncio.sleep(min(seconds, max(0.0, self._until - time.monotonic())))

    async def may_ask(self) -> None:
        """Wait while all clients are silent."""
        await self._asking.wait()

    async def silence(self, seconds: float) -> None:
        """Let nobody ask for so long."""
        self._asking.clear()
        await self.pause(seconds)
        self._asking.set()
