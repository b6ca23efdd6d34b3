"""Tells when a guest waits for its next line: it has read all there is, and its thread is parked inside a WASI call.

wasmtime has no event for this. Its stdin over a pipe reads ahead: a thread of its tokio runtime sits in read(2) whether
the guest wants a line or not, so neither that nor an empty pipe says anything alone. The guest waits when all of these
hold, twice in a row:

- the pipe is empty, and the thread that reads ahead is back in read(2): the guest has been handed every byte;
- the guest's thread is neither in wasm (no epoch ticks, no processor time) nor in a host call of promptd;
- it is parked without a time limit (futex(2) with no timeout), as wasmtime parks it inside a WASI call; a thread that
  waits for Python's interpreter lock has a timeout;
- no timer is pending in tokio (epoll_wait(2) has no timeout): the guest does not sleep. All guests of a process share
  that timer, so unless a guest is alone, it counts as waiting after `SLEEP_GRACE_S` of quiet even so.

Measured on Linux 6 with wasmtime 50.0.1. Where /proc does not show threads' system calls, a guest waits when its thread
has used no processor time for `QUIET_S`.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from promptd.wasm.control import Control
from promptd.wasm.stdio import Streams

SETTLE_S = 0.002
"""How far apart the two looks are."""
QUIET_S = 0.1
SLEEP_GRACE_S = 1.0

_CALLS = {  # read, futex, and epoll_wait or epoll_pwait, in the kernel's tables
    "x86_64": ("0", "202", "232", "281"),
    "aarch64": ("63", "98", "22"),
}
_READ, _FUTEX, *_EPOLLS = _CALLS.get(platform.machine(), ("", ""))
_TASKS = Path("/proc/self/task")
_TOKIO = "tokio-rt-worker"
"""The name of all threads of wasmtime's tokio runtime."""

_CLOCK_OF_THREAD = 4 | 2
"""`CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED` of Linux's include/linux/posix-timers_types.h."""


class Idle:
    """Watches one guest thread and one input pipe."""

    def __init__(self, streams: Streams, control: Control, thread: threading.Thread, alone: Callable[[], bool]) -> None:
        self._streams = streams
        self._control = control
        self._alone = alone
        self._thread = thread.native_id or 0
        self._clock = _clock_of(thread)
        self._last: tuple[object, ...] | None = None
        self._since = 0.0
        self._reader = 0
        """The thread that was last seen reading ahead."""
        self._input = ""
        """wasmtime's file descriptor of the input pipe, as /proc shows it."""

    def waits(self) -> bool:
        """Take one look; True when this look and the one `SETTLE_S` or more before agree that the guest waits."""
        now = time.monotonic()
        # Between the two looks at the guest, so that a timer that woke it meanwhile shows in the second.
        asleep = self._last is not None and _timer_pending()
        look = self._look()
        if look is None or look != self._last:
            self._last, self._since = look, now
            return False
        quiet = now - self._since
        if look[0] == "unknown":
            return quiet >= QUIET_S
        if quiet < SETTLE_S:
            return False
        return not asleep or (quiet >= SLEEP_GRACE_S and not self._alone())

    def _look(self) -> tuple[object, ...] | None:
        """Return a mark of the guest's standstill, the same for as long as it lasts; None where the guest is busy."""
        calls = self._control.host_calls
        if self._control.in_host_call or not self._streams.input_taken:
            return None
        parked = "unknown"
        if _FUTEX and (call := _system_call(self._thread)) is not None:
            if not _parked(call) or not self._read_ahead_waits():
                return None
            call = _system_call(self._thread) or []
            if not _parked(call):
                return None
            parked = call[1]
        if self._control.in_host_call or self._control.host_calls != calls:
            return None
        try:
            used = time.clock_gettime_ns(self._clock)
        except OSError:
            return None
        return (parked, used, calls, self._control.ticks)

    def _read_ahead_waits(self) -> bool:
        # Looking through all threads takes milliseconds where hundreds of guests wait.
        if self._reader and self._reads_input(_system_call(self._reader) or []):
            return True
        for thread, call in _tokio_calls():
            if self._reads_input(call):
                self._reader = thread
                return True
        return False

    def _reads_input(self, call: list[str]) -> bool:
        if call[:1] != [_READ] or len(call) < 2:
            return False
        if not self._input and _link(int(call[1], 16)) == self._streams.input_link:
            self._input = call[1]
        return call[1] == self._input


def _clock_of(thread: threading.Thread) -> int:
    """Return the processor clock of a thread that has been started, and may have ended.

    It is what `pthread_getcpuclockid` returns, made from the number the thread has in the kernel: that function reads
    the thread's own memory, and ends the process with SIGSEGV where the thread has ended and its stack is unmapped.
    """
    return ~(thread.native_id or 0) << 3 | _CLOCK_OF_THREAD


def _parked(call: list[str]) -> bool:
    return len(call) > 4 and call[0] == _FUTEX and int(call[4], 16) == 0


def _timer_pending() -> bool:
    """Whether tokio's driver waits with a time limit, or cannot be seen waiting."""
    for _, call in _tokio_calls():
        if call[0] in _EPOLLS:
            return len(call) > 4 and int(call[4], 16) & 0xFFFFFFFF != 0xFFFFFFFF
    return True


def _tokio_calls() -> Iterator[tuple[int, list[str]]]:
    """Yield each thread of tokio's that is blocked, and its system call."""
    own = {thread.native_id for thread in threading.enumerate()}
    for thread in map(int, os.listdir(_TASKS)):  # noqa: PTH208 - for speed
        if thread not in own and _name(thread) == _TOKIO and (call := _system_call(thread)):
            yield thread, call


def _name(thread: int) -> str:
    try:
        return (_TASKS / str(thread) / "comm").read_text().strip()
    except OSError:
        return ""


def _system_call(thread: int) -> list[str] | None:
    """Return the system call a thread is blocked in, with arguments; empty while it runs, None where /proc has none."""
    try:
        text = (_TASKS / str(thread) / "syscall").read_text()
    except OSError:
        return None
    fields = text.split()
    return fields if len(fields) > 1 else []


def _link(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""
