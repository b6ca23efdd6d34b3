"""A model that crashes onnxruntime, or wants all memory or time, takes its own worker along and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models as models
import pytest
from onnx import TensorProto, helper

from promptd.backends import onnx_link
from promptd.backends.onnx import OnnxGraph
from promptd.engine.crashes import MAX_CRASHES
from promptd.errors import PromptdError, RuntimeFailure, TimedOut, TooLarge, Unavailable
from promptd.tensor import Tensor, TensorType

SCALAR = Tensor((), TensorType.FP32, np.float32(1).tobytes())
PATIENCE_S = 30.0


def aborting() -> bytes:
    """A model that aborts onnxruntime 1.32 when it gets a scalar, and takes what is not one."""
    return models.model(
        models.graph([models.node("DFT", "x", "y")], [models.port("x", None)], [models.port("y", None)])
    )


def square(size: int) -> list[tuple[str, Tensor]]:
    """A matrix whose product with itself is one operator that takes as long as `size` says."""
    return [("x", Tensor((size, size), TensorType.FP32, bytes(4 * size * size)))]


def integers(*values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor((len(values),) if shape is None else shape, TensorType.I64, np.array(values, "<i8").tobytes())


def counting(turns: int) -> list[tuple[str, Tensor]]:
    return [("n", integers(turns, shape=())), ("x", SCALAR)]


def answers(graph: OnnxGraph) -> bool:
    ((_, tensor),) = graph.execution_context("guest").compute(counting(2))
    return bool(np.frombuffer(tensor.data, "<f4")[0] == 3)


def gone(pid: int) -> bool:
    """Wait until no process `pid` runs; False when it stays."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        return True
    return False


class TestCrashes:
    def test_an_abort_of_onnxruntime_ends_one_worker_and_the_next_call_has_another(self):
        other, graph = OnnxGraph(models.counter()), OnnxGraph(aborting())
        worker = graph.worker_pid
        with pytest.raises(RuntimeFailure, match="the worker process of the ONNX graph was killed by SIGABRT"):
            graph.execution_context("guest").compute([("x", SCALAR)])
        assert answers(other)
        signal_ = Tensor((1, 4, 1), TensorType.FP32, bytes(16))
        ((name, spectrum),) = graph.execution_context("another").compute([("x", signal_)])
        assert (name, spectrum.dimensions) == ("y", (1, 4, 2))
        assert graph.worker_pid != worker

    def test_a_graph_that_keeps_crashing_is_refused_for_a_while(self):
        graph = OnnxGraph(aborting())
        for _ in range(MAX_CRASHES):
            with pytest.raises(RuntimeFailure, match=r"SIGABRT$"):
                graph.execution_context("guest").compute([("x", SCALAR)])
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=r"3 times within 30 s, .*SIGABRT at last; it is started again"):
                graph.execution_context("guest").compute([("x", SCALAR)])

    def test_a_graph_whose_workers_crash_while_they_load_it_is_refused_for_a_while(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        graph = OnnxGraph(models.counter())
        context = graph.execution_context("guest")
        start = onnx_link.Worker.send

        def crash(worker: onnx_link.Worker, *arguments: Any) -> None:
            os.kill(worker.pid or 0, signal.SIGSEGV)
            start(worker, *arguments)

        assert graph.worker_pid is not None
        os.kill(graph.worker_pid, signal.SIGSEGV)
        while graph._worker.alive:
            time.sleep(0.01)
        monkeypatch.setattr(onnx_link.Worker, "send", crash)
        for _ in range(MAX_CRASHES - 1):
            with pytest.raises(RuntimeFailure, match=r"was killed by SIGSEGV$"):
                context.compute(counting(1))
        with pytest.raises(
            Unavailable, match=r"3 times within 30 s, .*SIGSEGV at last; it is started again"
        ) as refused:
            context.compute(counting(1))
        assert 1 <= refused.value.retry_after_s <= 30

    def test_killing_a_worker_ends_its_running_calls_and_no_others(self):
        graph, other = OnnxGraph(models.counter()), OnnxGraph(models.counter())
        said: list[str] = []

        def work() -> None:
            context = graph.execution_context("guest")
            try:
                context.compute(counting(10**15))
            except PromptdError as error:
                said.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(graph._running) < len(threads):
            time.sleep(0.02)
        assert graph.worker_pid is not None
        os.kill(graph.worker_pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert said == ["the worker process of the ONNX graph was killed by SIGKILL"] * 3
        assert answers(other)
        assert answers(graph)

    def test_workers_come_back_when_the_process_that_forks_them_is_killed(self):
        graph = OnnxGraph(models.counter())
        assert graph.worker_pid is not None
        forker = int(Path(f"/proc/{graph.worker_pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert forker != os.getpid()
        os.kill(forker, signal.SIGKILL)
        assert gone(forker)
        with suppress(RuntimeFailure):  # the worker may still be about to die
            answers(graph)
        assert answers(graph)

    def test_nothing_is_left_when_the_parent_is_killed(self):
        program = """
import os, sys, time
import onnx_models as models
from promptd.backends.onnx import OnnxGraph
graph = OnnxGraph(models.counter())
print(graph.worker_pid, open(f"/proc/{graph.worker_pid}/stat").read().rpartition(")")[2].split()[1], flush=True)
time.sleep(600)
"""
        parent = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert parent.stdout is not None
        worker, forker = map(int, parent.stdout.readline().split())
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert gone(worker)
        assert gone(forker)

    def test_a_closed_or_forgotten_graph_has_no_worker(self):
        graph, forgotten = OnnxGraph(models.counter()), OnnxGraph(models.counter())
        workers = [graph.worker_pid, forgotten.worker_pid]
        graph.close()
        del forgotten
        for worker in workers:
            assert worker is not None
            assert gone(worker)


class TestLimits:
    def test_a_constant_that_wants_more_memory_than_there_may_be_is_refused(self):
        """onnxruntime folds constants while it loads."""
        size = helper.make_tensor("size", TensorProto.INT64, [1], [10**9])
        nodes = [models.node("ConstantOfShape", "size", "m"), models.node("ReduceSum", "m", "y")]
        model = models.model(models.graph(nodes, [models.port("x", [1])], [models.port("y", None)], [size]))
        with pytest.raises(TooLarge, match="more memory than the 1024 MiB it may take"):
            graph = OnnxGraph(model)
            graph.execution_context("guest").compute([("x", Tensor((1,), TensorType.FP32, bytes(4)))])

    def test_inputs_beyond_the_worker_memory_are_refused_and_the_worker_goes_on(self):
        graph = OnnxGraph(models.identity(["n"], TensorProto.UINT8))
        worker = graph.worker_pid
        context = graph.execution_context("guest")
        with pytest.raises(TooLarge, match="larger than the 1024 MiB"):
            context.compute([("x", Tensor((2**30 + 1,), TensorType.U8, bytes(2**30 + 1)))])
        small = Tensor((3,), TensorType.U8, b"abc")
        assert context.compute([("x", small)]) == [("y", small)]
        assert graph.worker_pid == worker

    def test_a_run_that_does_not_stop_at_its_deadline_ends_with_its_worker(self):
        product = models.node("MatMul", "x x", "y")
        ports = [models.port("x", ["n", "n"])], [models.port("y", ["n", "n"])]
        graph = OnnxGraph(models.model(models.graph([product], *ports)))
        worker = graph.worker_pid
        assert worker is not None
        long = square(7000)
        with pytest.raises(TimedOut):
            graph.execution_context("guest").compute(long, deadline=time.monotonic() + 1)
        with pytest.raises(RuntimeFailure, match="because another call on it did not end"):
            graph.execution_context("another").compute(long)
        assert gone(worker)
        graph.execution_context("another").compute(square(2))
        assert graph.worker_pid != worker

    def test_a_worker_that_does_not_read_is_no_hindrance_to_a_deadline(self):
        graph = OnnxGraph(models.identity(["n"], TensorProto.UINT8))
        assert graph.worker_pid is not None
        os.kill(graph.worker_pid, signal.SIGSTOP)
        large = Tensor((2**23,), TensorType.U8, bytes(2**23))
        worker = graph.worker_pid
        with pytest.raises(TimedOut):
            graph.execution_context("guest").compute([("x", large)], deadline=time.monotonic() + 0.2)
        assert gone(worker)
        while graph.worker_pid is not None:
            time.sleep(0.02)
        assert graph.execution_context("guest").compute([("x", large)]) == [("y", large)]

    def test_a_deadline_amid_a_large_input_ends_that_call_alone(self):
        graph = OnnxGraph(models.identity(["n"], TensorProto.UINT8))
        worker = graph.worker_pid
        large = Tensor((2**28,), TensorType.U8, bytes(2**28))
        with pytest.raises(TimedOut):
            graph.execution_context("guest").compute([("x", large)], deadline=time.monotonic() + 0.01)
        small = Tensor((3,), TensorType.U8, b"abc")
        assert graph.execution_context("another").compute([("x", small)]) == [("y", small)]
        assert graph.worker_pid == worker

    def test_secrets_of_the_parent_stay_with_the_parent(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PROMPTD_TEST_SECRET", "hush")
        monkeypatch.setattr(onnx_link, "_forker", onnx_link._Forker())
        graph = OnnxGraph(models.counter())
        environment = Path(f"/proc/{graph.worker_pid}/environ").read_bytes()
        assert b"PATH=" in environment
        assert b"PROMPTD_TEST_SECRET" not in environment
