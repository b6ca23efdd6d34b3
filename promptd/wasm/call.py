"""A call into a guest on a thread of its own, which the caller leaves behind where the guest sleeps inside WASI."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any


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
