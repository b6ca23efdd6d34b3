"""Waits for what happens soon in another thread or process."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

PATIENCE_S = 60.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; fails when it never does."""
    deadline = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline, "it did not happen"
        sleep(0.01)
