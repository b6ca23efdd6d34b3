"""A guest's standard input and output: pipes whose host ends are served by the thread that waits for the guest.

Measured on wasmtime 50: writes of a guest go straight into the pipe on the guest's own thread, so what it wrote is in
the pipe when it returns; `stdout_custom` would instead call Python on threads of wasmtime's own, which can panic while
the interpreter exits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from wasmtime import WasiConfig

from promptd.errors import Busy
from promptd.wasm.lines import Lines
from promptd.wasm.unwrapped import set_stdin_bytes

Sink = Callable[[bytes], None]
"""Takes what a guest wrote, as it comes, characters cut or not; on the thread that is inside run, turn or respond."""

CHUNK = 65536
"""Bytes read at once: the capacity of a Linux pipe."""

POLL_LIMIT_S = 86400.0
"""Longest single wait; poll(2) takes its milliseconds as an int."""

SIGNAL_LOOK_S = 0.1
"""Longest wait on the main thread, where Python runs signal handlers: a signal that comes in the instant before a wait
begins does not end it.
"""

DRAIN_CHUNKS = 64
"""Most chunks of one stream that are handed on before the host looks after other things."""

_ONE = (1).to_bytes(8, sys.byteorder)

_FD_FOLDER = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"


def to_fd(fd: int) -> Sink:
    """Return a sink that writes to a file descriptor of the host."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    return write


_TO_STDOUT, _TO_STDERR = to_fd(1), to_fd(2)


class Stdin(Enum):
    """Where a guest's standard input comes from, if not from given bytes."""

    INHERIT = "inherit"
    """The standard input of the host's process."""
    CLOSED = "closed"
    """At its end from the start."""
    LINES = "lines"
    """What `Session.turn` sends, until `Session.finish`."""


@dataclass(frozen=True)
class Stdio:
    """What a session's standard streams are joined to. A sink that raises stops the guest, and the caller gets that."""

    stdin: Stdin | bytes = Stdin.CLOSED
    stdout: Sink = _TO_STDOUT
    stderr: Sink = _TO_STDERR


class OutputLimitReached(Exception):
    """The guest wrote more than it may."""


class Streams:
    """The host's ends of one session's pipes, for the thread that waits; `wake` and `write_partial` are for any."""

    def __init__(self, stdio: Stdio, output_limit: int, *, pipe_lines: bool = True) -> None:
        """Without `pipe_lines`, the guest reads its lines from `lines` in host calls, and not from a pipe."""
        self._stdio = stdio
        self.lines = None if pipe_lines or stdio.stdin is not Stdin.LINES else Lines(self.wake)
        """Where a guest reads its lines without a pipe."""
        self._left = output_limit
        self._discarding = False
        self._to_send = bytearray()
        self._input_ends = False
        self._partials: deque[str] = deque()
        self.partial: Callable[[str], None] = lambda _text: None
        """Takes the parts of a handler's reply."""
        self._wake_lock = threading.Lock()
        self._wake_read = self._wake_write = self._printing = -1
        self._out = self._guest_out = self._err = self._guest_err = self._in = self._guest_in = -1
        try:
            self._wake_read, self._wake_write = _wake_pair()
            self._out, self._guest_out = os.pipe()
            self._err, self._guest_err = os.pipe()
            if stdio.stdin is Stdin.LINES and self.lines is None:
                self._guest_in, self._in = os.pipe()
        except OSError as error:
            self.close()
            raise Busy(
                f"no pipes are left for another guest ({error.strerror}); `ulimit -n` raises their number"
            ) from error
        for fd in (self._out, self._err, self._in):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._poll = select.poll()
        for fd in (self._wake_read, self._out, self._err):
            self._poll.register(fd, select.POLLIN)

    def attach(self, wasi: WasiConfig, *, printing: bool = False) -> None:
        """Give a guest its ends; once only. With `printing`, keep what `print` needs."""
        if printing:
            self._printing = os.dup(self._guest_out)
        wasi.stdout_file = f"{_FD_FOLDER}/{self._guest_out}"
        wasi.stderr_file = f"{_FD_FOLDER}/{self._guest_err}"
        self._guest_out = _closed(self._guest_out)
        self._guest_err = _closed(self._guest_err)
        if self._guest_in >= 0:
            wasi.stdin_file = f"{_FD_FOLDER}/{self._guest_in}"
        elif self._stdio.stdin is Stdin.INHERIT:
            wasi.inherit_stdin()
        else:
            set_stdin_bytes(wasi, self._stdio.stdin if isinstance(self._stdio.stdin, bytes) else b"")

    # Input

    def send(self, data: bytes) -> None:
        """Queue `data` for the guest's standard input."""
        if self.lines is not None:
            self.lines.send(data)
            return
        self._to_send += data
        self._feed()

    def end_input(self) -> None:
        """Let the guest read the end, once it has read what was sent."""
        if self.lines is not None:
            self.lines.end()
            return
        self._input_ends = True
        self._feed()

    def cut_input(self) -> None:
        """Let the guest read the end now, and forget what it has not been sent: a guest blocked in a read goes on."""
        if self.lines is not None:
            self.lines.cut()
            return
        self._to_send.clear()
        self.end_input()

    @property
    def input_taken(self) -> bool:
        """Whether all that was sent has left the pipe. wasmtime reads ahead, so the guest may not have seen it yet."""
        if self._to_send:
            return False
        waiting = bytearray(4)
        fcntl.ioctl(self._guest_in, termios.FIONREAD, waiting)
        return bool(struct.unpack("i", waiting)[0] == 0)

    @property
    def input_link(self) -> str:
        """What /proc shows for a file descriptor of the input pipe."""
        return str(Path(f"{_FD_FOLDER}/{self._guest_in}").readlink())

    def _feed(self) -> None:
        if self._in < 0:
            return
        try:
            while self._to_send:
                del self._to_send[: os.write(self._in, self._to_send[:CHUNK])]
        except BlockingIOError:
            self._poll.register(self._in, select.POLLOUT)
            return
        with contextlib.suppress(KeyError):
            self._poll.unregister(self._in)
        if self._input_ends:
            self._in = _closed(self._in)

    # Output

    def write_partial(self, text: str) -> None:
        """Hand on a part of a handler's reply; from the guest's thread."""
        self._partials.append(text)
        self.wake()

    def print(self, data: bytes) -> None:
        """Write to the guest's standard output, after what it has written itself; from the guest's thread."""
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):  # the session is closing
            while view and self._printing >= 0:
                view = view[os.write(self._printing, view) :]

    def wake(self) -> None:
        """Make a running `pump` return; from any thread."""
        with self._wake_lock:
            if self._wake_write >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, _ONE)

    def pump(self, seconds: float | None) -> None:
        """Wait for at most `seconds`, or for the next thing to do, and do it.

        Raises OutputLimitReached, or what a sink raised; output after either is thrown away.
        """
        limit = SIGNAL_LOOK_S if threading.current_thread() is threading.main_thread() else POLL_LIMIT_S
        for fd, _ in self._poll.poll(min(max(0.0, limit if seconds is None else seconds), limit) * 1000):
            if fd == self._wake_read:
                os.read(self._wake_read, CHUNK)
            elif fd == self._in:
                self._feed()
        self.drain()

    def drain(self) -> None:
        """Hand on what the guest has written so far, or a good part where it writes on and on. Raises as `pump`."""
        while self._partials:
            text = self._partials.popleft()
            self._spend(text.encode(), lambda data: self.partial(data.decode(errors="ignore")))
        for fd, sink in ((self._out, self._stdio.stdout), (self._err, self._stdio.stderr)):
            with contextlib.suppress(BlockingIOError):
                for _ in range(DRAIN_CHUNKS):
                    data = os.read(fd, CHUNK)
                    if not data:
                        with contextlib.suppress(KeyError):
                            self._poll.unregister(fd)
                        break
                    self._spend(data, sink)

    def discard(self) -> None:
        """Throw away what the guest writes from now on."""
        self._discarding = True

    def _spend(self, data: bytes, sink: Sink) -> None:
        if self._discarding:
            return
        allowed, self._left = data[: self._left], self._left - len(data)
        try:
            if allowed:
                sink(allowed)
            if self._left < 0:
                raise OutputLimitReached
        except BaseException:
            self._discarding = True
            raise

    def close(self) -> None:
        """Close the host's ends: the guest's reads end and its writes fail."""
        if self.lines is not None:
            self.lines.cut()
        with self._wake_lock:
            if self._wake_read != self._wake_write:
                _closed(self._wake_read)
            self._wake_read = self._wake_write = _closed(self._wake_write)
        self._in, self._guest_in = _closed(self._in), _closed(self._guest_in)
        self._out, self._guest_out = _closed(self._out), _closed(self._guest_out)
        self._err, self._guest_err = _closed(self._err), _closed(self._guest_err)
        self._printing = _closed(self._printing)


def _wake_pair() -> tuple[int, int]:
    """Return the two ends of something one can write to and poll; one end where the system has eventfd."""
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _closed(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1
