"""The worker process: loads one model, then steps it and talks to the parent between steps, all on one thread.

Started by link.py, which gives it one end of a socket pair. It ends when the other end closes.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from promptd.engine.channel import Channel, ProtocolError
from promptd.engine.loading import load
from promptd.engine.messages import Command, Event, LoadFailed, Ready, Start
from promptd.engine.quota import Quotas
from promptd.errors import PromptdError, code_of

if TYPE_CHECKING:
    from promptd.engine.core import Core

COMMAND_SECONDS = 0.02
"""How long new commands, which have prompts to tokenise, may hold up replies that are being made."""

GATHER_SECONDS = 0.003
"""How long a worker that was idle waits for the next of several turns that come at once, so that they begin in one step
and go on together.
"""
GATHER_SECONDS_ALL = 0.03
"""How long it waits for them altogether."""

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def main(descriptor: int) -> int:
    """Serve the parent over the socket `descriptor` until it closes; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    channel: Channel[Command] = Channel(socket.socket(fileno=descriptor), Command)  # type: ignore[arg-type]
    try:
        start = channel.receive()
        if not isinstance(start, Start):
            return 2
        try:
            loaded = load(start)
            from promptd.engine.core import Core  # which has been imported while the model was loaded
            from promptd.engine.spill import Spill, fingerprint

            core = Core(
                loaded,
                step_tokens=start.step_tokens,
                max_sequences=start.max_sequences,
                queue=start.queue,
                weights=start.weights,
                adapt_threads=start.threads is None,
                quotas=Quotas(start.kv_quota, start.kv_quotas, cells=loaded.context.cells, slots=start.max_sequences),
                speculation=start.speculation,
                spill=Spill(
                    loaded.context,
                    memory=start.spill_memory,
                    disk=start.spill_disk,
                    directory=Path(start.spill_directory) if start.spill_directory else None,
                    model=fingerprint(Path(start.path)),
                ),
            )
        except PromptdError as error:
            channel.send(LoadFailed(code_of(error).name, str(error)))
            return 1
        channel.send(Ready(core.loaded.info))
        gc.freeze()
        gc.enable()
        while True:
            _serve(channel, core)
    except (EOFError, OSError):
        return 0
    except ProtocolError as error:
        sys.stderr.write(f"the parent sent what is no message: {error}\n")
        return 2
    except MemoryError:
        sys.stderr.write("MemoryError\n")
        return 3


def _serve(channel: Channel[Command], core: Core) -> None:
    """Take the commands that are there, waiting for one if there is nothing else to do, and make one step."""
    idle = not core.busy
    until: float | None = None
    while (command := channel.receive(wait=not core.busy)) is not None:
        until = until or time.monotonic() + COMMAND_SECONDS
        _send(channel, core.handle(command))
        if core.busy and time.monotonic() > until:
            break
    if idle:
        _gather(channel, core)
    _send(channel, core.step())


def _gather(channel: Channel[Command], core: Core) -> None:
    """Wait a moment for turns of conversations that make none, before the first step: those that begin while all cores
    are busy with it wait for much longer.
    """
    until = time.monotonic() + GATHER_SECONDS_ALL
    while core.may_get_turns and time.monotonic() < until and channel.comes(GATHER_SECONDS):
        command = channel.receive(wait=False)
        if command is not None:
            _send(channel, core.handle(command))


def _send(channel: Channel[Command], events: list[Event]) -> None:
    for event in events:
        channel.send(event)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere the closed socket does, after
    the current step.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
