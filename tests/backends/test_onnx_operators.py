"""A guest's results are onnxruntime's own, to the byte, over the operators of onnx's backend test cases."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from promptd.backends.onnx import OnnxGraph
from promptd.errors import PromptdError
from promptd.tensor import NamedTensor, Tensor, TensorType

TYPES = {
    np.dtype(np.float16): (TensorType.FP16, TensorProto.FLOAT16),
    np.dtype(np.float32): (TensorType.FP32, TensorProto.FLOAT),
    np.dtype(np.float64): (TensorType.FP64, TensorProto.DOUBLE),
    np.dtype(ml_dtypes.bfloat16): (TensorType.BF16, TensorProto.BFLOAT16),
    np.dtype(np.uint8): (TensorType.U8, TensorProto.UINT8),
    np.dtype(np.int32): (TensorType.I32, TensorProto.INT32),
    np.dtype(np.int64): (TensorType.I64, TensorProto.INT64),
    np.dtype(np.bool_): (TensorType.U8, TensorProto.BOOL),
}
CARRIED = {f"tensor({name})" for name in ("float16", "float", "double", "bfloat16", "uint8", "int32", "int64", "bool")}

LEAST_CASES = 1400
"""Cases of onnx 1.23 that onnxruntime 1.32 can run and whose types wasi-nn can carry: 1479."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning:onnx")
def test_every_case_of_onnx_computes_what_onnxruntime_computes():
    """Cases are left out for their types alone. What onnxruntime refuses, the backend refuses, too."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    equal = 0
    kinds: Counter[TensorType] = Counter()
    wrong: list[str] = []
    for case in load_model_tests(kind="node"):
        model = case.model.SerializeToString()
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception:
            with pytest.raises(PromptdError):
                OnnxGraph(model, target="cpu")
            continue
        if {port.type for port in (*session.get_inputs(), *session.get_outputs())} - CARRIED:
            continue
        graph = OnnxGraph(model, target="cpu")
        for inputs, _ in case.data_sets:
            given = {
                name: numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
                for name, value in zip((port.name for port in session.get_inputs()), inputs, strict=False)
                if value is not None
            }
            positions = {port.name: str(index) for index, port in enumerate(session.get_inputs())}
            expected = directly(session, given)
            by_name = through_graph(graph, [(name, tensor(array)) for name, array in given.items()])
            by_position = through_graph(graph, [(positions[name], tensor(array)) for name, array in given.items()])
            if by_name != expected or by_position != expected:
                wrong.append(case.name)
            elif expected is not None:
                equal += 1
                kinds.update(TYPES[array.dtype][0] for array in given.values())
    assert wrong == []
    assert equal >= LEAST_CASES
    assert set(kinds) == set(TensorType)


Outputs = list[tuple[str, tuple[int, ...], bytes]]


def directly(session: Any, given: dict[str, np.ndarray]) -> Outputs | None:
    """Return what onnxruntime computes from numpy's arrays, or None for a failure."""
    names = [port.name for port in session.get_outputs()]
    ports = (*session.get_inputs(), *session.get_outputs())
    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = 4
    try:
        if any(port.type == "tensor(bfloat16)" for port in ports):
            return brain_floats(session, given, quiet)
        arrays = session.run(names, given, quiet)
    except Exception:
        return None
    return [(name, array.shape, array.tobytes()) for name, array in zip(names, arrays, strict=True)]


def brain_floats(session: Any, given: dict[str, np.ndarray], options: Any) -> Outputs:
    """Do the same without numpy, which has no BF16 for onnxruntime."""
    names = [port.name for port in session.get_outputs()]
    feeds = {}
    for name, array in given.items():
        words = np.frombuffer(array.tobytes(), f"u{array.itemsize}").reshape(array.shape)
        feeds[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(words, TYPES[array.dtype][1])
    values = session.run_with_ort_values(names, feeds, options)
    return [
        (name, tuple(value.shape()), ctypes.string_at(value.data_ptr() or 1, value.tensor_size_in_bytes()))
        for name, value in zip(names, values, strict=True)
    ]


def through_graph(graph: OnnxGraph, inputs: Sequence[NamedTensor]) -> list[tuple[str, tuple[int, ...], bytes]] | None:
    """Return what the graph computes, or None for a failure."""
    try:
        outputs = graph.execution_context("guest").compute(inputs)
    except PromptdError:
        return None
    return [(name, tensor.dimensions, tensor.data) for name, tensor in outputs]


def tensor(array: np.ndarray) -> Tensor:
    return Tensor(array.shape, TYPES[array.dtype][0], array.tobytes())
