"""The processes onnxruntime runs in: one that has imported it and does nothing but fork, and its children, which hold
one model each.

Started by onnx_link.py. Importing onnxruntime takes a third of a second, which a guest that brings its own small model
would wait for each time; a fork takes milliseconds, and its child has nothing of another model.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from promptd.backends.onnx_messages import (
    MAX_MESSAGE_BYTES,
    Buffer,
    Command,
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
from promptd.backends.onnx_model import (
    choose_providers,
    load_session,
    onnxruntime,
    run_error,
    session_options,
    set_memory,
)
from promptd.backends.onnx_ports import Feed, Port
from promptd.errors import InvalidArgument, InvalidEncoding, PromptdError, RuntimeFailure, TooLarge, code_of

MAX_RUNS = 32
"""Runs of one graph at once; more wait."""

SLACK_BYTES = 256 * 1024**2
"""Address space beside weights and tensors: the stacks of threads, and inputs while they are received."""

LOG_LENGTH = 1000

REQUEST = struct.Struct("<q")
"""To the forking process: 0 with a socket asks for a child, whose id is the answer; an id asks for that child's end,
and the wait status is the answer."""

SMALLEST_MODEL = (
    b"\x08\x08"  # ir_version
    b"\x3a\x2b"  # graph: a node, its name, an input and an output
    b"\x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity"
    b"\x12\x01g"
    b"\x5a\x09\x0a\x01x\x12\x04\x0a\x02\x08\x01"
    b"\x62\x09\x0a\x01y\x12\x04\x0a\x02\x08\x01"
    b"\x42\x04\x0a\x00\x10\x11"  # opset_import
)

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def main(descriptor: int) -> int:
    """Fork a child for each socket that comes over the socket `descriptor`, until that closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=descriptor)
    _warm_up()
    own = os.getpid()
    while True:
        try:
            request, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        except OSError:
            return 0
        if len(request) != REQUEST.size:
            return 0
        (child,) = REQUEST.unpack(request)
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            control.sendall(REQUEST.pack(os.waitpid(child, 0)[1]))
            continue
        child = os.fork()
        if child == 0:
            _child(control, descriptors[0], own)
        os.close(descriptors[0])
        control.sendall(REQUEST.pack(child))


def _child(control: socket.socket, descriptor: int, parent: int) -> None:
    """Be the process of one model, and never return."""
    status = 1
    try:
        _die_with_parent()
        control.close()
        if os.getppid() == parent:
            Server(socket.socket(fileno=descriptor)).serve()
        status = 0
    except (EOFError, OSError):
        status = 0
    except ProtocolError:
        status = 2
    finally:
        os._exit(status)


class Server:
    """One model, and the runs on it: this thread reads what the parent wants, others compute."""

    def __init__(self, connection: socket.socket) -> None:
        self._channel: TensorChannel[Command] = TensorChannel(connection, Command, sys.maxsize)
        self._send_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_RUNS, "run")
        self._runs: dict[int, Any] = {}
        self._session: Any = None

    def serve(self) -> None:
        """Load and compute until the parent closes."""
        load, blobs = self._channel.receive()
        if not isinstance(load, Load):
            return
        logging.getLogger("promptd.backends.onnx_model").addHandler(_Forward(self))
        logging.getLogger("promptd.backends.onnx_model").setLevel(logging.DEBUG)
        try:
            loaded = self._load(load, blobs[0] if blobs else None)
        except PromptdError as error:
            self._send(LoadFailed(code_of(error).name, _plain(str(error))))
            return
        except MemoryError:
            self._send(LoadFailed(code_of(TooLarge()).name, "there is too little memory to load this ONNX model"))
            return
        del blobs
        self._threads.submit(int)  # so that there is one thread, however little memory is left
        self._send(loaded)
        while True:
            command, blobs = self._channel.receive()
            match command:
                case Run() as run:
                    self._start(run, blobs)
                case Stop(call=call) if call in self._runs:
                    self._runs[call].terminate = True
                case _:
                    pass
            del blobs

    def send_log(self, level: int, text: str) -> None:
        self._send(Logged(level, _plain(text)[:LOG_LENGTH]))

    def _load(self, load: Load, model: bytes | None) -> Loaded:
        providers, warning = choose_providers(load.target, onnxruntime().get_available_providers())
        set_memory(load.memory)
        if len(providers) == 1:  # a GPU's driver reserves far more address space than it uses
            limit_address_space(load.memory + SLACK_BYTES)
        source = model if load.path is None else Path(load.path)
        session, unranked = load_session(source or b"", providers, session_options())
        if providers[0] not in session.get_providers():
            warning = f"onnxruntime could not start its {providers[0]}, so this graph runs on the CPU"
        self._session = session
        try:
            return Loaded(
                (
                    *(_port(node, unranked) for node in session.get_inputs()),
                    *(_port(node, unranked, required=False) for node in session.get_overridable_initializers()),
                ),
                tuple(_port(node) for node in session.get_outputs()),
                warning,
            )
        except UnicodeDecodeError as error:
            raise InvalidEncoding(
                "this ONNX model is not valid: the name of an input or output is not UTF-8"
            ) from error

    def _start(self, run: Run, blobs: list[bytes] | None) -> None:
        if blobs is None:
            self._fail(run.call, TooLarge("there is too little memory for these inputs of the ONNX graph"))
            return
        options = onnxruntime().RunOptions()
        options.log_severity_level = 4  # A failure comes back as an exception; a guest's needs no line in the log.
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._runs[run.call] = options
        with suppress(RuntimeError):  # no other thread can be started; the run waits for one that is there
            self._threads.submit(self._run_or_exit, run, blobs, options)

    def _run_or_exit(self, run: Run, blobs: list[bytes], options: Any) -> None:
        """Run, and answer or end: a call without an answer would wait for ever."""
        try:
            self._run(run, blobs, options)
        except BaseException:
            os._exit(1)

    def _run(self, run: Run, blobs: list[bytes], options: Any) -> None:
        """Compute, and send the results from where onnxruntime has them: numpy has no BF16."""
        try:
            arrays = [_array(feed, blob) for feed, blob in zip(run.feeds, blobs, strict=True)]
            make = onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type
            feeds = {
                feed.name: make(array, feed.onnx_type) for feed, array in zip(run.feeds, arrays, strict=True)
            }  # they share the arrays' memory
            values = _compute(self._session, run.outputs, feeds, options)
            results = [_bytes_of(value) for value in values]
            shapes = tuple(tuple(value.shape()) for value in values)
        except PromptdError as error:
            self._end(run.call, error)
        except MemoryError:
            self._end(run.call, TooLarge("there is too little memory for these inputs of the ONNX graph"))
        except Exception as error:
            self._end(run.call, RuntimeFailure(f"the ONNX graph failed to compute: {error}"))
        else:
            del self._runs[run.call]
            self._send(Done(run.call, shapes), results)

    def _end(self, call: int, error: PromptdError) -> None:
        del self._runs[call]
        self._fail(call, error)

    def _fail(self, call: int, error: PromptdError) -> None:
        self._send(Failed(call, code_of(error).name, _plain(str(error))))

    def _send(self, event: Event, blobs: Sequence[Buffer] = ()) -> None:
        with suppress(OSError), self._send_lock:
            self._channel.send(event, blobs)


class _Forward(logging.Handler):
    """Passes on what onnxruntime logs, to be logged by the parent."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        self._server.send_log(record.levelno, record.getMessage())


def _warm_up() -> None:
    """Do what every child would do first: onnxruntime registers its operators when it makes its first session."""
    options = session_options()
    options.intra_op_num_threads = 1  # which starts no thread
    with suppress(Exception):
        onnxruntime().InferenceSession(SMALLEST_MODEL, options, providers=["CPUExecutionProvider"])
    gc.collect()
    gc.freeze()  # a collection in a child would copy all pages there are


def limit_address_space(headroom: int) -> None:
    """Let this process grow by at most `headroom` bytes, where the system can limit that."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + headroom
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _compute(session: Any, outputs: Sequence[str], feeds: dict[str, Any], options: Any) -> list[Any]:
    try:
        return list(session.run_with_ort_values(list(outputs), feeds, options))
    except Exception as error:
        if options.terminate:
            raise RuntimeFailure("the ONNX graph or context was closed while it computed") from error
        raise run_error(error) from error


def _array(feed: Feed, blob: bytes) -> Any:
    import numpy

    try:
        return numpy.frombuffer(blob, f"<u{feed.item_size}").reshape(feed.shape)
    except ValueError as error:
        raise InvalidArgument(
            f"input {feed.name!r} has shape {list(feed.shape)}, beyond what arrays can have"
        ) from error


def _bytes_of(value: Any) -> Buffer:
    """Return a view of the value's memory, which is good as long as the value is."""
    size = value.tensor_size_in_bytes()
    return memoryview((ctypes.c_char * size).from_address(value.data_ptr())).cast("B") if size else b""


def _port(node: Any, unranked: frozenset[str] = frozenset(), *, required: bool = True) -> Port:
    return Port(node.name, node.type, None if node.name in unranked else tuple(node.shape), required)


def _plain(text: str) -> str:
    """Return text that is Unicode, as messages must be; names in models need not be."""
    return text.encode("utf-8", "backslashreplace").decode()[: MAX_MESSAGE_BYTES // 8]


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere the closed socket does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
