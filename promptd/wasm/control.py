"""Whether a guest may go on: asked at every epoch tick and around every host call, told from any thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context, copy_context

from promptd.wasm.traps import GuestDeadline, GuestTrap

_log = logging.getLogger("promptd.guest")


class Stopped(Exception):
    """Unwinds a host call of a guest that must end; `Control.stopped` says why."""


class Control:
    """Shared by the guest's thread, the thread that waits for it, and any thread that stops it."""

    def __init__(
        self,
        guest: str,
        wake: Callable[[], None] = lambda: None,
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`wake` is called when the guest is stopped; `paused` surrounds each host call: there are no ticks for it."""
        self._guest = guest
        self._wake = wake
        self._paused = paused
        self._lock = threading.Lock()
        self._cancels: list[Callable[[], None]] = []
        self._seconds: float | None = None
        self.deadline: float | None = None
        """`time.monotonic()` past which the running call is stopped; None is no limit."""
        self.stopped: GuestTrap | None = None
        """Why the guest must end; the first reason stays."""
        self.ticks = 0
        """Epoch ticks seen while wasm ran."""
        self.host_calls = 0
        """Host calls begun."""
        self.in_host_call = True
        """Whether the guest's thread is in code of the host; from the start, until wasm is entered."""
        self._context: Context | None = None
        """That of the turn, which the guest's thread has not taken over yet."""

    def begin(self, seconds: float | None) -> None:
        """Start the clock of one run or turn, for which the guest's thread has the context variables of this one."""
        self._context = copy_context()
        self._seconds = seconds
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def end(self) -> None:
        """Stop the clock: between turns there is no deadline."""
        self.deadline = None

    def stop(self, reason: GuestTrap) -> None:
        """End the guest as soon as can be: wasm at its next tick, the running reply within a step of its engine."""
        with self._lock:
            if self.stopped is not None:
                return
            self.stopped = reason
            cancels = list(self._cancels)
        for cancel in cancels:
            try:
                cancel()
            except Exception:
                _log.debug("guest %s: cancelling failed", self._guest, exc_info=True)
        self._wake()

    def enter_wasm(self) -> None:
        """Note that the guest's thread goes from host code into wasm for the first time."""
        self.in_host_call = False

    def may_go_on(self) -> bool:
        """Tell an epoch tick whether wasm may run on."""
        self.ticks += 1
        return not self.must_stop()

    def must_stop(self) -> bool:
        """Whether there is a reason to end the guest; a deadline that has passed is one."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.stop(GuestDeadline(f"guest {self._guest} was stopped: its deadline of {self._seconds:g} s passed"))
        return self.stopped is not None

    def check(self) -> None:
        """Raise Stopped if the guest must end; on its own thread, at every host call."""
        context, self._context = self._context, None
        for variable, value in context.items() if context else ():
            variable.set(value)  # so that the log names the request of this turn, and not the one that began the thread
        if self.must_stop():
            raise Stopped

    @contextmanager
    def host_call(self) -> Iterator[None]:
        """Surround a host call that may block on a model, or a part of one."""
        self.check()
        self.host_calls += 1
        if self.in_host_call:
            yield
        else:
            self.in_host_call = True
            try:
                with self._paused():
                    yield
            finally:
                self.in_host_call = False
        self.check()

    @contextmanager
    def cancelling(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Call `cancel` when the guest is stopped while the block runs."""
        with self._lock:
            self._cancels.append(cancel)
            stopped = self.stopped is not None
        try:
            if stopped:
                cancel()
            yield
        finally:
            with self._lock:
                self._cancels.remove(cancel)
