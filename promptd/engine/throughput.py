"""How many tokens a second are generated of late, while replies are made."""

from __future__ import annotations

PAUSE_S = 1.0
"""When no token came for so long, no reply was being made."""
WINDOW_S = 10.0
"""What is further back counts ever less, and what is not followed by anything for so long not at all."""


class Throughput:
    """A count of tokens over the time they took. Times are `time.monotonic()` values."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._busy = 0.0
        """Seconds in which those tokens came."""
        self._last: float | None = None

    def add(self, now: float) -> None:
        """Count a token that came now."""
        before, self._last = self._last, now
        if before is None or now - before > PAUSE_S:
            self._tokens = self._busy = 0.0
            return
        self._tokens += 1
        self._busy += now - before
        if self._busy > WINDOW_S:
            self._tokens /= 2
            self._busy /= 2

    def rate(self, now: float) -> float:
        """Return tokens a second; 0 when none came of late."""
        if self._last is None or now - self._last > WINDOW_S or not self._busy:
            return 0.0
        return self._tokens / self._busy
