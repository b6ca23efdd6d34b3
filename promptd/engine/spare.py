"""The worker that was started before anybody asked for a model, and whoever asks first."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Sequence
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


def offer(spare: Spare, command: Sequence[str]) -> None:
    """Let the first model be loaded by `spare`, and be remembered as that of `command`."""
    with _lock:
        _spare.append(spare)
        _commands.append((*command,))


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
