"""A call into a guest on a thread of its own, which the caller leaves behind where the guest sleeps inside WASI, and
which gives way to models and to the server where cores are short.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

NICENESS = 10
"""How much lower the priority of guests' threads is, as nice(1) counts: a model that loses a core for a moment holds up
all who wait for it.
"""


class Call:
    """Work that runs guest code; `ended` is called on its thread once `done` is set."""

    def __init__(self, work: Callable[[], Any], ended: Callable[[], None], name: str) -> None:
        self._lock = threading.Lock()
        self._clean_up: Callable[[], None] | None = None
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        context = copy_context()  # the log names the request also on this thread
        self.thread = threading.Thread(target=context.run, args=(self._run, work, ended), name=name, daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[], Any], ended: Callable[[], None]) -> None:
        _give_way()
        try:
            self.value = work()
        except BaseException as error:
            self.error = error
        with self._lock:
            self.done = True
        ended()
        if self._clean_up:
            self._clean_up()

    def leave(self, clean_up: Callable[[], None]) -> bool:
        """Let the thread call `clean_up` when it ends one day; False when its work has ended already."""
        with self._lock:
            if not self.done:
                self._clean_up = clean_up
            return not self.done


def _give_way() -> None:
    """Lower the priority of this thread; on Linux, where threads have one (setpriority(2), C library differences)."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
