"""ONNX graphs behind the core ABI: named by the operator, and brought by a guest."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from puppet import F32, SPECIFIED, U8, Errno, Puppet

from promptd.backends.onnx import OnnxGraph
from promptd.wasm.runtime import Runtime


def subtraction() -> bytes:
    """`difference = a - b`, for any number of floats; then `minus = -difference`."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b", "difference", "minus")
    ]
    nodes = [helper.make_node("Sub", ["a", "b"], ["difference"]), helper.make_node("Neg", ["difference"], ["minus"])]
    graph = helper.make_graph(nodes, "subtraction", ports[:2], ports[2:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(proto.SerializeToString())


@pytest.fixture
def guest(runtime: Runtime) -> Iterator[Puppet]:
    puppet = Puppet(runtime, {"subtraction": OnnxGraph(subtraction())})
    yield puppet
    puppet.close()


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_inputs_and_outputs_go_by_position(guest: Puppet) -> None:
    context = guest.init(guest.load("subtraction"))
    guest.set(context, floats(1, 2, 3), index=1, kind=F32, dims=(3,))
    guest.set(context, floats(10, 20, 30), index=0, kind=F32, dims=(3,))
    guest.compute(context)
    assert guest.get(context, 0) == floats(9, 18, 27)
    assert guest.get(context, 1) == floats(-9, -18, -27)
    with pytest.raises(Errno, match="1"):
        guest.get(context, 2)


def test_inputs_the_model_does_not_take_are_invalid_arguments(guest: Puppet) -> None:
    context = guest.init(guest.load("subtraction"))
    assert guest.call("compute", context) == 1, "both are missing"
    guest.set(context, floats(1), index=0, kind=F32)
    guest.set(context, b"\x01", index=1, kind=U8)
    assert guest.call("compute", context) == 1, "one is of another type"
    guest.set(context, floats(1, 2), index=1, kind=F32, dims=(2,))
    assert guest.call("compute", context) == 1, "one is of another shape"
    guest.set(context, floats(1), index=1, kind=F32)
    guest.set(context, floats(1), index=2, kind=F32)
    assert guest.call("compute", context) == 1, "there is one too many"


@pytest.mark.parametrize("encoding", [1, 5, 6])
def test_a_guest_brings_its_own_model(runtime: Runtime, encoding: int) -> None:
    guest = Puppet(runtime, {}, names=SPECIFIED)
    context = guest.init(guest.load_bytes(subtraction(), encoding=encoding))
    for index, value in ((0, 5), (1, 3)):
        guest.set(context, floats(value), index=index, kind=F32)
    guest.compute(context)
    assert guest.get(context) == floats(2)
    guest.close()


def test_a_model_that_reaches_for_other_files_is_refused(guest: Puppet, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(floats(1, 2, 3))
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=str(secret))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    main = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "leak", [], [output], [weights])
    proto = helper.make_model(main, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(Errno, match="1"):
        guest.load_bytes(proto.SerializeToString(), encoding=1)


def test_a_guest_can_bring_so_many_models_and_no_more(guest: Puppet) -> None:
    handles = [guest.load_bytes(subtraction(), encoding=1) for _ in range(4)]
    with pytest.raises(Errno, match="7"):
        guest.load_bytes(subtraction(), encoding=1)
    context = guest.init(handles[0])
    guest.call("unload", handles[0])
    with pytest.raises(Errno, match="7"):
        guest.load_bytes(subtraction(), encoding=1)
    guest.call("finalize_execution_context", context)
    guest.load_bytes(subtraction(), encoding=1)
