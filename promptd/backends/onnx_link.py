"""The processes onnxruntime runs in, as the parent sees them: started, spoken to, and cleared away."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path

from promptd.backends.onnx_messages import (
    Done,
    Event,
    Failed,
    Load,
    Loaded,
    LoadFailed,
    Logged,
    ProtocolError,
    Run,
    Stop,
    TensorChannel,
)
from promptd.backends.onnx_ports import Feed
from promptd.engine.crashes import cause_of, was_killed
from promptd.engine.process import worker_environment
from promptd.errors import BY_NAME, PromptdError, RuntimeFailure, TimedOut, TooLarge

OBEY_SECONDS = 1.0
"""How long a run that was told to stop may go on before its process is killed."""

Outputs = tuple[tuple[tuple[int, ...], ...], list[bytes]]
"""The shape of each output, and its bytes."""

_BOOT = (
    "import sys; sys.path.append(sys.argv[2]);"
    " from promptd.backends.onnx_worker import main; sys.exit(main(int(sys.argv[1])))"
)
_PACKAGE_ROOT = str(Path(__file__).parents[2])

_OWN_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""A process that forks should have no threads, and one with a bound on its address space no need of much."""

_REQUEST_BYTES = 8

_log = logging.getLogger("promptd.backends.onnx_model")


class _Forker:
    """The process that forks workers, started with the first of them. It ends with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    def fork(self, far: socket.socket) -> int:
        """Return the id of a new worker that has `far`; raises OSError when there is none."""
        with self._lock:
            if self._control is not None:
                with suppress(OSError):  # it has died since the last worker
                    return self._ask(0, [far.fileno()])
                self._control.close()
            self._control = self._start()
            return self._ask(0, [far.fileno()])

    def end(self, worker: int) -> int:
        """Kill the worker unless it has ended by itself, and return its wait status; OSError when nobody knows it."""
        with self._lock:
            if self._control is None:
                raise OSError("the forking process is gone")
            return self._ask(worker, [])

    def _ask(self, request: int, descriptors: list[int]) -> int:
        assert self._control is not None
        socket.send_fds(self._control, [request.to_bytes(_REQUEST_BYTES, "little")], descriptors)
        answer = self._control.recv(_REQUEST_BYTES, socket.MSG_WAITALL)
        if len(answer) != _REQUEST_BYTES:
            raise ConnectionError("the forking process has ended")
        return int.from_bytes(answer, "little")

    def _start(self) -> socket.socket:
        near, far = socket.socketpair()
        started: Future[None] = Future()

        def live() -> None:
            """Start the process and wait for its end: Linux's parent-death signal goes by the thread."""
            try:
                with far:
                    process = subprocess.Popen(
                        [
                            sys.executable,
                            "-P",
                            "-c",
                            _BOOT,
                            str(far.fileno()),
                            _PACKAGE_ROOT,
                            "promptd worker: ONNX models",
                        ],
                        pass_fds=[far.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env={**worker_environment(os.environ), **_OWN_ENVIRONMENT},
                        process_group=0,
                    )
            except OSError as error:
                started.set_exception(error)
            else:
                started.set_result(None)
                process.wait()

        threading.Thread(target=live, name="promptd-onnx", daemon=True).start()
        started.result()
        return near


_forker = _Forker()


class Call:
    """One run on a worker, which another thread can stop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._number = next(worker.numbers)
        self.future: Future[Outputs] = Future()
        self._stopped = False

    def run(self, outputs: Sequence[str], feeds: Sequence[tuple[Feed, bytes]], deadline: float | None) -> Outputs:
        """Return what the worker computes; raises TimedOut at the deadline, however long the worker goes on."""
        worker = self._worker
        worker.calls[self._number] = self.future
        if not worker.alive:
            worker.calls.pop(self._number, None)
            raise worker.lost()
        run = Run(self._number, tuple(outputs), tuple(feed for feed, _ in feeds))
        try:
            worker.send(run, [data for _, data in feeds], deadline)
            if self._stopped:  # before there was anything to stop
                worker.send(Stop(self._number))
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            return self.future.result(left)
        except _NotSent as error:
            worker.calls.pop(self._number, None)
            raise TimedOut("the deadline passed while the ONNX graph was computing") from error
        except TimeoutError as error:
            self.stop()
            raise TimedOut("the deadline passed while the ONNX graph was computing") from error

    def stop(self) -> None:
        """End the run once the operator it is in is done; or with its process, when that takes too long."""
        self._stopped = True
        if not self.future.done() and self._worker.alive:
            threading.Thread(target=self._insist, name="promptd-onnx", daemon=True).start()

    def _insist(self) -> None:
        with suppress(TimeoutError):
            self._worker.send(Stop(self._number), (), time.monotonic() + 2 * OBEY_SECONDS)
            wait([self.future], OBEY_SECONDS)
        if self._number in self._worker.calls:
            self._worker.kill("was ended, because another call on it did not end at its deadline or when it was closed")


class _NotSent(TimeoutError):
    """The deadline passed before a message could be sent."""


class Worker:
    """A process with one model, from start to end, which a thread of its own reads from."""

    def __init__(self, load: Load, blobs: Sequence[bytes]) -> None:
        self.numbers = itertools.count(1)
        self.calls: dict[int, Future[Outputs]] = {}
        """Runs that have not ended. Each step on it is one that Python makes as a whole, so it needs no lock."""
        self.alive = True
        """False once its end is being told: a call made after that would wait for ever."""
        self.crashed = False
        """Whether it ended without being told to."""
        self.killed = False
        """Whether it was ended from outside."""
        self.pid: int | None = None
        self._load = (load, blobs)
        self._socket, self._far_socket = socket.socketpair()
        self._channel: TensorChannel[Event] = TensorChannel(self._socket, Event, load.memory + 2**30)
        self._send_lock = threading.Lock()
        self._end_lock = threading.Lock()
        self._ending: str | None = None
        self.cause = "could not be started"
        """Why the process ended, as the rest of a sentence about it."""
        self._loaded: Future[Loaded] = Future()
        threading.Thread(target=self._live, name="promptd-onnx", daemon=True).start()

    def open(self, deadline: float | None) -> Loaded:
        """Wait until the model is loaded; raises a PromptdError that says why it is not."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return self._loaded.result(left)
        except TimeoutError as error:
            self.kill("was ended")
            raise TimedOut("the deadline passed while onnxruntime was loading the model") from error

    def send(self, message: Load | Run | Stop, blobs: Sequence[bytes] = (), deadline: float | None = None) -> None:
        """Send; nothing when the worker is gone, since every call is told of that. TimeoutError past the deadline."""
        left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._send_lock.acquire(timeout=left):
            raise _NotSent
        try:
            self._channel.send(message, blobs, deadline)
        except TimeoutError:  # nothing can follow half of a frame
            threading.Thread(target=self._send_rest, name="promptd-onnx", daemon=True).start()
            raise
        except OSError:
            self.hang_up()
        except BaseException:
            self._send_lock.release()
            raise
        self._send_lock.release()

    def _send_rest(self) -> None:
        """End a frame whose sender has given up on it, for the other calls' sake, and the turn to send with it."""
        try:
            self._channel.send_rest(time.monotonic() + OBEY_SECONDS)
        except TimeoutError:
            self.kill("was ended, because it did not read what it was sent")
        except OSError:
            pass
        finally:
            self._send_lock.release()

    def kill(self, cause: str) -> None:
        """End the process; its calls are told that it `cause`."""
        with self._end_lock:
            if self._ending is None:
                self._ending = self.cause = cause
                self.alive = False
            if self.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        self.hang_up()

    def hang_up(self) -> None:
        with suppress(OSError):  # already closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def lost(self) -> RuntimeFailure:
        """Return what a call on a worker that has ended is told."""
        return RuntimeFailure(f"the worker process of the ONNX graph {self.cause}")

    def _live(self) -> None:
        try:
            with self._far_socket:
                pid = _forker.fork(self._far_socket)
            with self._end_lock:
                self.pid = pid
            try:
                load, blobs = self._load
                self.send(load, blobs)
                self._load = (load, ())
                self._read()
            finally:
                self.hang_up()
                with self._end_lock:
                    self.pid = None
                status = os.waitstatus_to_exitcode(_forker.end(pid))
                self.cause, self.killed = cause_of(status), was_killed(status)
        except OSError as error:
            self.cause = f"could not be run: {error.strerror or error}"
        finally:
            self.crashed = self._ending is None
            self.cause = self._ending or self.cause
            self.alive = False
            self._socket.close()
            for number in list(self.calls):
                if future := self.calls.pop(number, None):
                    future.set_exception(self.lost())
            if not self._loaded.done():
                self._loaded.set_exception(self.lost())

    def _read(self) -> None:
        """Pass on what the worker says until it ends, or says something that is no message."""
        try:
            while True:
                event, blobs = self._channel.receive()
                match event:
                    case Logged(level=level, text=text):
                        _log.log(level, "%s", text)
                    case Loaded() if not self._loaded.done():
                        self._loaded.set_result(event)
                    case LoadFailed(code=code, sentence=text) if not self._loaded.done():
                        self._loaded.set_exception(_error(code, text))
                    case Done(call=call, shapes=shapes) if call in self.calls:
                        future = self.calls.pop(call)
                        if blobs is None:
                            future.set_exception(TooLarge("there is too little memory for the ONNX graph's outputs"))
                        else:
                            future.set_result((shapes, blobs))
                    case Failed(call=call, code=code, sentence=text) if call in self.calls:
                        self.calls.pop(call).set_exception(_error(code, text))
                    case _:
                        raise ProtocolError("a worker answered what was not asked")
        except (EOFError, OSError):
            pass
        except ProtocolError:
            _log.exception("an ONNX worker process sent what is no message, and is ended")


def _error(code: str, text: str) -> PromptdError:
    return BY_NAME.get(code, RuntimeFailure)(text)
