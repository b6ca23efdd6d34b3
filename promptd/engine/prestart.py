"""Starts a worker before anybody asks for a model: it gets ready while the command line is imported, and begins to load
what the same command loaded the last time.

What this module imports, the start of the process waits for.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from promptd.engine.process import WorkerProcess


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
        import tempfile

        from promptd.engine.channel import Channel
        from promptd.engine.last_start import recall
        from promptd.engine.messages import Event, with_spill_directory
        from promptd.engine.spare import SPILL_PREFIX, Spare, offer

        channel: Channel[Event] = Channel(near, Event)  # type: ignore[arg-type]
        spare = Spare(process, near, channel, tempfile.TemporaryDirectory(prefix=SPILL_PREFIX), recall(command))
        offer(spare, command)
        if spare.loads:
            with suppress(OSError):  # it has died already
                channel.send(with_spill_directory(spare.loads, spare.spill.name))
