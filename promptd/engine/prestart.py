"""Starts a worker before anybody asks for a model: it gets ready while the command line is imported, and begins to load
what the same command loaded the last time.
"""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptd.engine.process import WorkerProcess

if TYPE_CHECKING:
    from promptd.engine.channel import Channel
    from promptd.engine.messages import Event, Start

SPILL_PREFIX = "promptd-spill-"
"""Of the temporary directory that each worker has of its own."""


@dataclass(frozen=True)
class Spare:
    """A worker that nobody has asked for yet."""

    process: WorkerProcess
    socket: socket.socket
    """This end."""
    channel: Channel[Event]
    spill: tempfile.TemporaryDirectory[str]
    loads: Start | None
    """What it was told to load, but for its `spill_directory`; None where it still waits to be told."""

    def discard(self) -> None:
        """End it."""
        self.socket.close()
        self.process.kill()
        self.spill.cleanup()


_spare: list[Spare] = []
_commands: list[tuple[str, ...]] = []
"""The command whose first model is still to be remembered."""
_lock = threading.Lock()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off signals that end the command to the end of the block.

    msgspec 0.22.0 crashes the process when the handler of one raises while it looks at the types of messages.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prestart(command: Sequence[str]) -> None:
    """Start the worker of the first model that will be loaded. If none is, it ends with this process.

    To be called on the main thread. Where no process can be started, whoever loads a model is told.
    """
    near, far = socket.socketpair()
    try:
        process = WorkerProcess(far, threads=None)
    except OSError:
        near.close()
        return
    with _uninterrupted():
        # While the process starts:
        from promptd.engine.channel import Channel
        from promptd.engine.last_start import recall
        from promptd.engine.messages import Event, with_spill_directory

        channel: Channel[Event] = Channel(near, Event)  # type: ignore[arg-type]
        spare = Spare(process, near, channel, tempfile.TemporaryDirectory(prefix=SPILL_PREFIX), recall(command))
        _spare.append(spare)
        _commands.append((*command,))
        if spare.loads:
            with suppress(OSError):  # it has died already
                channel.send(with_spill_directory(spare.loads, spare.spill.name))


def take_spare(start: Start) -> Spare | None:
    """Return, once, the worker that `prestart` started; None where it is of no use, since it loads something else, or
    its threads spin for another time than where their number is fixed.
    """
    with _lock:
        if start.threads is not None or not _spare:
            return None
        spare = _spare.pop()
    if spare.process.alive and spare.loads in (None, start):
        return spare
    spare.discard()
    return None


def remember_start(start: Start) -> None:
    """Let the next run of the command that called `prestart` begin with this, the first model it has loaded."""
    with _lock:
        command = _commands.pop() if _commands else None
    if command is None or start.threads is not None:
        return
    from promptd.engine.last_start import recall, remember

    if recall(command) != start:
        remember(command, start)
