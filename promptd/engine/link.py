"""One life of a worker process as the parent sees it: started, spoken to, and cleared away by a thread of its own."""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from promptd.engine.channel import Channel, ProtocolError
from promptd.engine.messages import Command, Event, LoadFailed, Ready, Start, with_spill_directory
from promptd.engine.process import WorkerProcess
from promptd.engine.spare import SPILL_PREFIX, remember_start, take_spare
from promptd.engine.statistics import EngineInfo
from promptd.errors import BY_NAME, RuntimeFailure

_log = logging.getLogger(__name__)


class Link:
    """A worker process, from start to end. `on_event` and `on_end` are called on the thread that reads from it.

    That thread also starts the process, unless one was prestarted: Linux's parent-death signal goes by the thread.
    """

    def __init__(self, start: Start, on_event: Callable[[Event], None], on_end: Callable[[Link], None]) -> None:
        self._name = Path(start.path).name
        self._on_event = on_event
        self._on_end = on_end
        self._start = start
        self._spare = take_spare(start)
        channel: Channel[Event]
        if self._spare:
            self._socket, channel = self._spare.socket, self._spare.channel
        else:
            self._socket, self._far_socket = socket.socketpair()
            channel = Channel(self._socket, Event)  # type: ignore[arg-type]
        self._channel = channel
        self._send_lock = threading.Lock()
        self._loaded = threading.Event()
        self._outcome: EngineInfo | Exception | None = None
        self._thread = threading.Thread(target=self._live, name="promptd-engine", daemon=True)
        self.alive = True
        """False once its end is being told: a call made after that would wait for ever."""
        self.cause = "could not be started"
        """Why the process ended, as the rest of a sentence about it."""
        self.killed = False
        """Whether it was ended from outside."""

    def open(self) -> EngineInfo:
        """Start the worker and wait until its model is loaded; raises a PromptdError that says why it is not."""
        self._thread.start()
        self._loaded.wait()
        if isinstance(self._outcome, EngineInfo):
            return self._outcome
        self._thread.join()
        if self._outcome is not None:
            raise self._outcome
        raise RuntimeFailure(f"the model's worker process {self.cause} while it loaded {self._name}")

    @property
    def refused(self) -> bool:
        """Whether the worker has said why it cannot load the model."""
        return isinstance(self._outcome, Exception)

    def send(self, command: Command) -> None:
        """Send; silently nothing when the worker is gone, since `on_end` tells everyone of that."""
        with suppress(OSError), self._send_lock:
            self._channel.send(command)

    def close(self) -> None:
        """End the worker and wait for its end; one that is about to be opened will then not load."""
        self._hang_up()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _hang_up(self) -> None:
        with suppress(OSError):  # already closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def _live(self) -> None:
        try:
            with self._spare.spill if self._spare else tempfile.TemporaryDirectory(prefix=SPILL_PREFIX) as spill:
                if not (self._spare and self._spare.loads):
                    self._channel.send(with_spill_directory(self._start, spill))
                if self._spare:
                    process = self._spare.process
                else:
                    process = WorkerProcess(self._far_socket, self._start.threads, self._name)
                try:
                    self._read()
                finally:
                    self._hang_up()
                    self.cause, self.killed = process.reap()
        except OSError as error:
            self.cause = f"could not be started: {error.strerror}"
        finally:
            self._socket.close()
            if not self._spare:
                self._far_socket.close()  # unless no process came that has done so
            self._on_end(self)
            self._loaded.set()

    def _read(self) -> None:
        """Pass events on until the worker ends or says something that is no event."""
        try:
            while True:
                event = self._channel.receive()
                match event:
                    case Ready(info=info):
                        self._outcome = info
                        self._loaded.set()
                        remember_start(self._start)
                    case LoadFailed(code=code, sentence=text):
                        self._outcome = BY_NAME.get(code, RuntimeFailure)(text)
                    case None:
                        pass
                    case _:
                        self._on_event(event)
        except (EOFError, OSError):
            pass
        except ProtocolError:
            _log.exception("a worker process sent what is no message, and is ended")
