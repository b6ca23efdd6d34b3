"""What every reply that is being made is to its callers: pieces and an outcome they wait for, filled by the engine's
reader thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from promptd.errors import PromptdError, TimedOut

DEADLINE_GRACE_S = 2.0
"""The worker keeps deadlines itself, between steps; a caller that still waits this long after its own stops waiting
for the worker.
"""

P = TypeVar("P")
T = TypeVar("T")


class PendingReply(Generic[P, T]):
    """Pieces `P` that are added one by one, and at the end an outcome `T`, or the error that came instead.

    Who waits for the end is not woken by pieces: those of all replies come at every step, while llama.cpp's threads
    want the cores.
    """

    def __init__(self, deadline: float | None, cancel: Callable[[], None], abandon: Callable[[], None]) -> None:
        """`abandon` is called when the worker does not answer past the `deadline`, a `time.monotonic()` value."""
        self._deadline = deadline
        self._cancel = cancel
        self._abandon = abandon
        self._lock = threading.RLock()
        self._grown = threading.Condition(self._lock)
        """Told of every piece, and of the end."""
        self._settled = threading.Condition(self._lock)
        """Told of the acceptance, and of the end."""
        self._accepted = False
        self._pieces: list[P] = []
        self._outcome: T | PromptdError | None = None

    def cancel(self) -> None:
        """Stop within one step of the engine; the reply then ends with CANCELLED. Idempotent, from any thread."""
        if self._outcome is None:
            self._cancel()

    def wait_accepted(self) -> None:
        """Wait until the worker has queued the turn; raises the PromptdError with which it refused."""
        with self._lock:
            self._wait(self._settled, lambda: self._accepted or self._outcome is not None)
            if not self._accepted and isinstance(self._outcome, PromptdError):
                raise self._outcome

    def accept(self) -> None:
        """The worker has queued the turn."""
        with self._lock:
            self._accepted = True
            self._settled.notify_all()

    def add(self, piece: P) -> None:
        """The worker has made a piece."""
        with self._lock:
            if self._outcome is None:
                self._pieces.append(piece)
                self._grown.notify_all()

    def fail(self, error: PromptdError) -> None:
        """The reply ends with an error."""
        self._finish(error)

    def _finish(self, outcome: T | PromptdError) -> None:
        """Take the outcome, unless there is one."""
        with self._lock:
            if self._outcome is None:
                self._outcome = outcome
                self._grown.notify_all()
                self._settled.notify_all()

    def _wait_beyond(self, pieces: int) -> None:
        """Wait, with the lock held, until there are more than so many pieces, or the outcome."""
        self._wait(self._grown, lambda: len(self._pieces) > pieces or self._outcome is not None)

    def _await_outcome(self) -> T:
        """Wait for the outcome; raises the error that came instead."""
        with self._lock:
            self._wait(self._settled, lambda: self._outcome is not None)
            outcome = self._outcome
        if isinstance(outcome, PromptdError):
            raise outcome
        assert outcome is not None
        return outcome

    def _wait(self, condition: threading.Condition, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready`; a worker that does not answer past the deadline is given up."""
        timeout = None if self._deadline is None else max(0.0, self._deadline + DEADLINE_GRACE_S - time.monotonic())
        if not condition.wait_for(ready, timeout):
            self._abandon()
            self.fail(TimedOut("the deadline passed and the model's worker process did not answer"))
