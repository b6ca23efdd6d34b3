"""`wasi:nn` without a version: which of its shapes a component means, and numbers for handles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime.component import Record

from promptd.backends.echo import EchoGraph
from promptd.config import GuestLimits
from promptd.errors import Busy, NotFound, SecurityDenied, TimedOut, UnsupportedOperation
from promptd.shipped import shipped
from promptd.wasm.control import Control, Stopped
from promptd.wasm.face import _host_function, record
from promptd.wasm.grants import Grant
from promptd.wasm.guest import Import
from promptd.wasm.nn import Nn
from promptd.wasm.runtime import Runtime
from promptd.wasm.staged import StagedExecution

LABELS = (
    "invalid-argument",
    "invalid-encoding",
    "busy",
    "runtime-error",
    "unsupported-operation",
    "too-large",
    "not-found",
)


def imports_of(runtime: Runtime, guest: str) -> dict[str, Import]:
    loaded = runtime.load(shipped(f"guests/conformance/wasm/{guest}.wasm"))
    return {each.name.removeprefix("wasi:nn/"): each for each in loaded.imports}


@pytest.fixture(scope="module")
def u1(runtime: Runtime) -> dict[str, Import]:
    return imports_of(runtime, "u1")


def nn_with(**limits: Any) -> Nn:
    grant = Grant(graphs=frozenset({"echo"}), limits=GuestLimits(**limits))
    return Nn("guest", grant, lambda _name: EchoGraph(), Control("guest"), lambda _text: None)


def test_shapes_are_told_apart_by_what_a_component_imports(runtime: Runtime) -> None:
    assert "init-execution-context" in imports_of(runtime, "u1")["inference"].functions
    u2, u3 = (imports_of(runtime, shape) for shape in ("u2", "u3"))
    assert u2["errors"].face.resources == {}
    assert list(u3["errors"].face.resources) == ["error"]
    assert u2["inference"].face.functions == u3["inference"].face.functions


def test_an_error_is_the_nearest_case_the_guests_enum_has(runtime: Runtime, u1: dict[str, Import]) -> None:
    spell = {"u1": u1["graph"].face.error, "u2": imports_of(runtime, "u2")["graph"].face.error}
    errors = (Busy(), TimedOut(), SecurityDenied(), NotFound())
    assert [spell["u1"](error) for error in errors] == ["busy", "runtime-error", "not-found", "not-found"]
    assert [spell["u2"](error) for error in errors] == ["runtime-error", "timeout", "not-found", "not-found"]


def test_a_shape_that_never_was_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    guest = tmp_path / "guest.wat"
    guest.write_text('(component (import "wasi:nn/execution" (instance (export "eval" (func)))))')
    with pytest.raises(UnsupportedOperation, match="imports wasi:nn/execution, which promptd does not offer"):
        runtime.load(guest)


def test_inputs_can_have_names_in_place_of_numbers(u1: dict[str, Import]) -> None:
    nn, call = nn_with(), {**u1["graph"].face.functions, **u1["inference"].face.functions}
    context = call["init-execution-context"](nn, call["load-by-name"](nn, "echo"))
    tensor = record(dimensions=[2], tensor_type="U8", data=b"hi")
    call["set-input"](nn, context, "text", tensor)
    call["compute"](nn, context)
    assert call["get-output"](nn, context, "text") == call["get-output"](nn, context, 0) == b"hi"


def test_what_contexts_keep_counts_against_the_memory_limit_until_they_are_dropped(u1: dict[str, Import]) -> None:
    nn, call = nn_with(memory=1000), {**u1["graph"].face.functions, **u1["inference"].face.functions}
    graph = call["load-by-name"](nn, "echo")

    def keep(size: int) -> int:
        context: int = call["init-execution-context"](nn, graph)
        call["set-input"](nn, context, 0, record(dimensions=[size], tensor_type="U8", data=bytes(size)))
        return context

    for _ in range(5):
        nn.drop(keep(900))
    keep(900)
    with pytest.raises(Stopped):
        keep(900)


numbers = st.one_of(st.integers(0, 8), st.integers(0, 2**32 - 1))
tensors: st.SearchStrategy[Record] = st.builds(
    lambda dimensions, type, data: record(dimensions=dimensions, tensor_type=type, data=data),
    st.lists(numbers, max_size=4),
    st.sampled_from(["FP16", "FP32", "FP64", "BF16", "U8", "I32", "I64"]),
    st.binary(max_size=64),
)
encodings = st.sampled_from(["openvino", "onnx", "tensorflow", "pytorch", "tensorflowlite", "autodetect"])
names = st.one_of(st.just("echo"), st.text())
calls = st.one_of(
    st.tuples(st.just("load-by-name"), names),
    st.tuples(st.just("load"), st.lists(st.binary(max_size=32), max_size=3), encodings, st.just("cpu")),
    st.tuples(st.just("init-execution-context"), numbers),
    st.tuples(st.just("set-input"), numbers, numbers, tensors),
    st.tuples(st.just("compute"), numbers),
    st.tuples(st.just("get-output"), numbers, numbers),
)


@given(st.lists(calls, max_size=30))
def test_whatever_a_guest_passes_it_gets_a_result_of_the_right_type(u1: dict[str, Import], made: list[Any]) -> None:
    control = Control("guest")
    nn = nn_with()
    face = {name: each.face for each in (u1["graph"], u1["inference"]) for name in each.functions}
    functions = {name: _host_function(name, face[name].functions[name], face[name].error, nn, control) for name in face}
    for name, *arguments in made:
        answer = functions[name](None, *arguments)
        if answer.tag == "err":
            assert answer.payload in LABELS
        else:
            wanted = {"get-output": bytes, "compute": type(None), "set-input": type(None)}.get(name, int)
            assert isinstance(answer.payload, wanted)
    for held in nn.resources:
        assert isinstance(held, StagedExecution) or hasattr(held, "graph")
    nn.close()
