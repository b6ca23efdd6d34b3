"""One life of a worker process as the parent sees it: started, spoken to, and cleared away by a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from promptd.engine.channel import Channel, ProtocolError
from promptd.engine.crashes import cause_of, was_killed
from promptd.engine.messages import Command, Event, LoadFailed, Ready, Start
from promptd.engine.run_queue import runnable
from promptd.engine.statistics import EngineInfo
from promptd.errors import BY_NAME, RuntimeFailure

EXIT_SECONDS = 1.0
"""How long a worker whose socket was closed may finish its step before it is killed."""

SHORT_SPIN = "1000"
"""How long an OpenMP thread of llama.cpp spins at a barrier before it sleeps, where others use the cores too
(GOMP_SPINCOUNT, read when libgomp loads). libgomp's default is milliseconds; docs/engine.md has the measurements.
"""
_SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""By either the operator has chosen."""

_INHERITED = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
_INHERITED_PREFIXES = ("GGML_", "LLAMA_CPP_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "OMP_", "GOMP_")
"""What llama.cpp and its backends read; tokens and other secrets of the parent stay with the parent."""

_STDERR_TAIL_BYTES = 4096

_log = logging.getLogger(__name__)

_BOOT = (
    "import sys; sys.path.append(sys.argv[2]); from promptd.engine.worker import main; sys.exit(main(int(sys.argv[1])))"
)
"""Not `python -m`, which would import from the current directory first, and not need promptd to be installed."""
_PACKAGE_ROOT = str(Path(__file__).parents[2])


class Link:
    """A worker process, from start to end. `on_event` and `on_end` are called on the thread that reads from it.

    That thread also starts the process, since Linux's parent-death signal goes by the thread.
    """

    def __init__(self, start: Start, on_event: Callable[[Event], None], on_end: Callable[[Link], None]) -> None:
        self._name = Path(start.path).name
        self._on_event = on_event
        self._on_end = on_end
        self._socket, self._far_socket = socket.socketpair()
        self._channel: Channel[Event] = Channel(self._socket, Event)  # type: ignore[arg-type]
        self._start = start
        self._send_lock = threading.Lock()
        self._loaded = threading.Event()
        self._outcome: EngineInfo | Exception | None = None
        self._thread = threading.Thread(target=self._live, name="promptd-engine", daemon=True)
        self.alive = True
        """False once its end is being told: a call made after that would wait for ever."""
        self.ended = threading.Event()
        """Set when the process is gone, and everyone was told."""
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
            with tempfile.TemporaryFile() as stderr, tempfile.TemporaryDirectory(prefix="promptd-spill-") as spill:
                self._channel.send(msgspec.structs.replace(self._start, spill_directory=spill))
                process = self._spawn(stderr.fileno())
                try:
                    self._read()
                finally:
                    self._hang_up()
                    self.cause, self.killed = _reap(process, stderr)
        except OSError as error:
            self.cause = f"could not be started: {error.strerror}"
        finally:
            self._socket.close()
            self._on_end(self)
            self.ended.set()
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

    def _spin(self) -> str | None:
        return spin_count(self._start.threads, runnable(), os.cpu_count() or 1)

    def _spawn(self, stderr: int) -> subprocess.Popen[bytes]:
        descriptor = self._far_socket.fileno()
        with self._far_socket:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(descriptor), _PACKAGE_ROOT, f"promptd worker: {self._name}"],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=worker_environment(os.environ, spin=self._spin()),
                process_group=0,
            )


def worker_environment(parent: Mapping[str, str], *, spin: str | None = None) -> dict[str, str]:
    """Return the environment of a worker whose parent has `parent`; `spin` is how long OpenMP threads do,
    where that does not choose.
    """
    kept = {name: value for name, value in parent.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)}
    chosen = {} if spin is None or any(name in parent for name in _SPIN_VARIABLES) else {"GOMP_SPINCOUNT": spin}
    return {**chosen, "GGML_NO_BACKTRACE": "1", **kept}


def spin_count(threads: int | None, runnable: int, cores: int) -> str | None:
    """Return how long threads spin, None for libgomp's default.

    That is fastest on free cores, if nobody has fixed the number of `threads`: where the cores are free no more, fewer
    threads are used (threads.py). `runnable` threads run on the machine's `cores` already.
    """
    return None if threads is None and runnable < cores else SHORT_SPIN


def _reap(process: subprocess.Popen[bytes], stderr: object) -> tuple[str, bool]:
    """Wait for the process, killing it if it takes long; return why it ended, and whether somebody else killed it."""
    try:
        status = process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return cause_of(process.wait(), _tail(stderr)), False
    return cause_of(status, _tail(stderr)), was_killed(status)


def _tail(stderr: object) -> str:
    """Return the last line the process wrote to standard error."""
    file: tempfile._TemporaryFileWrapper[bytes] = stderr  # type: ignore[assignment]
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _STDERR_TAIL_BYTES))
    lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""
