"""The onnx backend: graphs that onnxruntime executes, asked through the tensor interface.

Each graph has a worker process of its own, since a guest's model or input can be enough to crash onnxruntime (1.32
aborts when DFT or STFT gets a scalar, which a model that declares no rank for its input lets through) or to take all
memory. A worker that dies takes nothing else with it, and is started again at the next call. Every model file is
checked by `onnx_model` first, and never reaches other files or custom operator libraries.

Inputs are checked here, by what the model declares (`onnx_ports`); outputs come in the model's order. A graph with
inputs or outputs of types that wasi-nn has not (strings, INT8, sequences) loads, and refuses to compute.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Literal, NoReturn

from promptd.backends.onnx_link import Call, Worker
from promptd.backends.onnx_messages import Load
from promptd.backends.onnx_model import memory_limit
from promptd.backends.onnx_ports import Port, bind
from promptd.chat import ChatOptions, Tool
from promptd.engine.crashes import Crashes
from promptd.errors import PromptdError, RuntimeFailure, TimedOut, TooLarge, UnsupportedOperation
from promptd.tensor import NamedTensor, Tensor

BYTES_LIMIT = 32 * 1024**2
"""Bytes of a model that does not come from a file, unless the caller says otherwise."""


class OnnxGraph:
    """A loaded ONNX model; any number of contexts compute on it at once."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        target: Literal["cpu", "gpu", "auto"] = "auto",
        limit: int = BYTES_LIMIT,
        deadline: float | None = None,
    ) -> None:
        """Load `model`, a file, or the bytes of one, of which at most `limit` are taken.

        `deadline` is a `time.monotonic()` value. Raises TimedOut past it, TooLarge for too many bytes or too little
        memory, NotFound for a missing file, InvalidEncoding for what is not ONNX, UnsupportedOperation for operators
        onnxruntime lacks, SecurityDenied or InvalidArgument for a model that reaches for files it may not have, and
        RuntimeFailure for a model that crashes onnxruntime.
        """
        if isinstance(model, bytes) and len(model) > limit:
            raise TooLarge(f"this ONNX model is {len(model)} bytes; one that is given as bytes may be {limit} at most")
        if deadline is not None and deadline <= time.monotonic():
            raise TimedOut("the deadline passed before onnxruntime was loading the model")
        path = str(model.absolute()) if isinstance(model, Path) else None
        self._memory = memory_limit(model)
        self._load = Load(path, target, self._memory)
        self._bytes = () if isinstance(model, Path) else (model,)
        self._running: dict[Call, OnnxExecution] = {}
        self._crashes = Crashes("the worker process of the ONNX graph")
        self._closed = False
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._worker = Worker(self._load, self._bytes)
        self._workers = [self._worker]
        weakref.finalize(self, _hang_up, self._workers)
        self._loaded = self._worker.open(deadline)
        self.warnings: tuple[str, ...] = (self._loaded.warning,) if self._loaded.warning else ()
        """Sentences for the operator about what is not as asked."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What the model takes, the required ones first."""
        return self._loaded.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What the model gives, in its order."""
        return self._loaded.outputs

    @property
    def worker_pid(self) -> int | None:
        """The worker process; None while there is none."""
        return self._worker.pid

    def prompt_context(
        self, guest: str, options: ChatOptions = ChatOptions(), *, tools: Sequence[Tool] = ()
    ) -> NoReturn:
        raise UnsupportedOperation("an ONNX graph takes tensors, not prompts; open an execution context on it")

    def execution_context(self, guest: str) -> OnnxExecution:
        return OnnxExecution(self)

    def count_tokens(self, text: str) -> NoReturn:
        raise UnsupportedOperation("an ONNX graph takes tensors, not text, so it has no tokens to count")

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._worker.kill("was ended, because the graph was closed")

    def stop(self, context: OnnxExecution) -> None:
        """End the running computes of `context`, once the operators they are in are done."""
        with self._lock:
            calls = [call for call, owner in self._running.items() if owner is context]
        for call in calls:
            call.stop()

    def compute(
        self, context: OnnxExecution, inputs: Sequence[NamedTensor], deadline: float | None
    ) -> list[NamedTensor]:
        """Compute for `context`, as `OnnxExecution.compute` describes."""
        kinds = [port.element[0] for port in self.outputs]
        names = [port.name for port in self.outputs]
        feeds = bind(self.inputs, inputs)
        if sum(len(data) for _, data in feeds) > self._memory:
            raise TooLarge(f"the inputs are larger than the {self._memory // 1024**2} MiB the ONNX graph may take")
        self._check_open()
        if deadline is not None and deadline <= time.monotonic():
            raise TimedOut("the deadline passed before the ONNX graph was computing")
        call = Call(self._living_worker(deadline))
        with self._lock:
            self._check_open()
            self._running[call] = context
        try:
            shapes, data = call.run(names, feeds, deadline)
        except RuntimeFailure as error:
            if self._closed:
                raise RuntimeFailure("the ONNX graph or context was closed while it computed") from error
            raise
        finally:
            with self._lock:
                del self._running[call]
        if [prod(shape) * kind.item_size for shape, kind in zip(shapes, kinds, strict=False)] != [*map(len, data)]:
            raise RuntimeFailure("the worker process of the ONNX graph answered with what are not its outputs")
        return [
            (name, Tensor(shape, kind, one)) for name, kind, shape, one in zip(names, kinds, shapes, data, strict=True)
        ]

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeFailure("this ONNX graph is closed")

    def _living_worker(self, deadline: float | None) -> Worker:
        """Return the worker, a new one if the last has died; raises Unavailable when it crashed too often."""
        if self._worker.alive:
            return self._worker
        if not self._starting.acquire(timeout=-1.0 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise TimedOut("the deadline passed while onnxruntime was loading the model")
        try:
            if self._worker.alive:
                return self._worker
            self._count_crash(self._worker)
            self._crashes.check()
            worker = Worker(self._load, self._bytes)
            self._workers[:] = [worker]
            try:
                loaded = worker.open(deadline)
            except PromptdError:
                self._count_crash(worker)
                raise
            if (loaded.inputs, loaded.outputs) != (self.inputs, self.outputs):
                worker.kill("was ended, because the model file has changed")
                raise RuntimeFailure("the ONNX model file has changed since the graph was loaded; restart promptd")
            self._worker = worker
        finally:
            self._starting.release()
        if self._closed:
            worker.kill("was ended, because the graph was closed")
        return worker

    def _count_crash(self, worker: Worker) -> None:
        """Count, once, that `worker` crashed, if it did."""
        if worker.crashed:
            worker.crashed = False
            self._crashes.add(worker.cause, killed=worker.killed)


class OnnxExecution:
    """Inferences on one graph. It keeps nothing between calls, so calls may overlap."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph: OnnxGraph | None = graph

    def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
        """Return every output under its name, in the model's order.

        Raises InvalidArgument for inputs the model does not take, UnsupportedOperation for a model with types outside
        wasi-nn, TimedOut past the `time.monotonic()` value `deadline`, TooLarge when memory does not suffice, and
        RuntimeFailure. onnxruntime stops between operators: one that goes on for a second after TimedOut is killed
        with its worker, which ends the graph's other running calls with RuntimeFailure.
        """
        if self._graph is None:
            raise RuntimeFailure("this execution context is closed")
        return self._graph.compute(self, inputs, deadline)

    def close(self) -> None:
        """End a running compute with RuntimeFailure, as at a deadline. Idempotent."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.stop(self)


def _hang_up(workers: list[Worker]) -> None:
    """End the workers of a graph that nobody has any more."""
    for worker in workers:
        worker.hang_up()
