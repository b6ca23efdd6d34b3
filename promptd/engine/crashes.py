"""How the workers of a model died of late: whether another may be started, and after which pause."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import deque

from promptd.errors import Unavailable

CRASH_WINDOW_S = 30.0
MAX_CRASHES = 3
"""After this many crashes within CRASH_WINDOW_S no worker is started until the oldest is further back."""
KILLS_OF_A_CRASH = 3
"""So many workers that were killed from outside count as one crash: somebody may have done it, which says nothing about
the model, or the system for want of memory, which would go on for ever.
"""
BACK_OFF_S = (0.0, 0.5, 2.0)
"""Pause before a start, by crashes within the window."""

_OUT_OF_MEMORY = (
    "MemoryError",
    "std::bad_alloc",
    "GGML_ASSERT(ctx->mem_buffer != NULL)",
    "failed to map segment from shared object",
    "Memory allocation still failed",
)
"""What Python, C++, ggml, the dynamic linker and OpenBLAS say last when they get no memory."""
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""Signals that no library raises in its own process."""


def was_killed(status: int) -> bool:
    """Whether a process that ended with `status`, as `subprocess` has it, was killed by somebody else."""
    return -status in _FROM_OUTSIDE


def cause_of(status: int, last_words: str = "") -> str:
    """Return how a process ended that wrote `last_words` to standard error, as the rest of a sentence about it."""
    if any(sign in last_words for sign in _OUT_OF_MEMORY):
        last_words = "out of memory"
    said = f" ({last_words.strip()})" if last_words else ""
    if status >= 0:
        return f"ended with status {status}{said}"
    try:
        return f"was killed by {signal.Signals(-status).name}{said}"
    except ValueError:
        return f"was killed by signal {-status}{said}"


class Crashes:
    """The crashes of one model's workers since work was last done that shows the model to be usable. Thread-safe."""

    def __init__(self, worker: str = "the model's worker process") -> None:
        """`worker` is what one is called in sentences."""
        self._worker = worker
        self._lock = threading.Lock()
        self._crashes: deque[tuple[float, bool]] = deque(maxlen=MAX_CRASHES * KILLS_OF_A_CRASH)
        """When, and whether it was killed."""
        self._cause = ""

    def add(self, cause: str, *, killed: bool) -> None:
        """A worker has ended that should not have; `cause` is the rest of a sentence about it."""
        with self._lock:
            self._crashes.append((time.monotonic(), killed))
            self._cause = cause

    def clear(self) -> None:
        """Forget those before: they did not keep the model from working."""
        with self._lock:
            self._crashes.clear()

    @property
    def any(self) -> bool:
        """Whether there were any within the window, killed workers too."""
        with self._lock:
            return bool(self._recent())

    @property
    def pause(self) -> float:
        """Seconds to wait before another worker is started."""
        with self._lock:
            return BACK_OFF_S[min(_weight(self._recent()), len(BACK_OFF_S) - 1)]

    def check(self) -> None:
        """Raise Unavailable when no other worker may be started now."""
        with self._lock:
            recent = self._recent()
            if _weight(recent) >= MAX_CRASHES:
                left = max(1, math.ceil(recent[0][0] + CRASH_WINDOW_S - time.monotonic()))
                raise Unavailable(
                    f"{self._worker} ended {len(recent)} times within {CRASH_WINDOW_S:g} s, and {self._cause} at last;"
                    f" it is started again in {left} s at the earliest",
                    retry_after_s=left,
                )

    def _recent(self) -> list[tuple[float, bool]]:
        now = time.monotonic()
        return [crash for crash in self._crashes if now - crash[0] < CRASH_WINDOW_S]


def _weight(crashes: list[tuple[float, bool]]) -> int:
    """Return how many crashes they count as."""
    kills = sum(killed for _, killed in crashes)
    return len(crashes) - kills + kills // KILLS_OF_A_CRASH
