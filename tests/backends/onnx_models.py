"""Small ONNX models for the tests, made with the `onnx` package."""

from __future__ import annotations

from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

Shape = list[int | str | None] | None

WIT_TYPES = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "U8": TensorProto.UINT8,
    "I32": TensorProto.INT32,
    "I64": TensorProto.INT64,
}


def port(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def graph(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    initializers: list[TensorProto] | None = None,
) -> GraphProto:
    return helper.make_graph(nodes, "test", inputs, outputs, initializers or [])


def model(main: GraphProto, *, domain: str = "") -> bytes:
    versions = [helper.make_opsetid("", 21)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    proto: ModelProto = helper.make_model(main, opset_imports=versions, ir_version=10)
    return proto.SerializeToString()


def unary(operator: str, shape: Shape, kind: int = TensorProto.FLOAT) -> bytes:
    """One operator from input `x` to output `y`, of one type and shape."""
    return model(graph([node(operator, "x", "y")], [port("x", shape, kind)], [port("y", shape, kind)]))


def identity(shape: Shape, kind: int = TensorProto.FLOAT) -> bytes:
    return unary("Identity", shape, kind)


def subtract(shape_a: Shape, shape_b: Shape, a: str = "a", b: str = "b") -> bytes:
    """`y = a - b`."""
    return model(graph([node("Sub", f"{a} {b}", "y")], [port(a, shape_a), port(b, shape_b)], [port("y", None)]))


def counter() -> bytes:
    """`y = x + n`, one addition after the other: as long as `n` is large."""
    body = graph(
        [node("Identity", "on", "on_out"), node("Add", "s one", "s_out")],
        [port("i", [], TensorProto.INT64), port("on", [], TensorProto.BOOL), port("s", [])],
        [port("on_out", [], TensorProto.BOOL), port("s_out", [])],
    )
    constants = [
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
    ]
    loop = node("Loop", "n true x", "y", body=body)
    return model(graph([loop], [port("n", [], TensorProto.INT64), port("x", [])], [port("y", [])], constants))


def zeros() -> bytes:
    """`y` is as many zeros as `shape` says: a few bytes that ask for any amount of memory."""
    main = graph(
        [node("ConstantOfShape", "shape", "y")], [port("shape", ["rank"], TensorProto.INT64)], [port("y", None)]
    )
    return model(main)


def external(location: str, *, where: str = "initializer") -> bytes:
    """`y` is a tensor of 4 bytes that lies in the file `location`; `where` in the model the tensor is."""
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    outputs = [port("y", [4], TensorProto.UINT8)]
    if where == "initializer":
        return model(graph([node("Identity", "w", "y")], [], outputs, [tensor]))
    if where == "constant":
        return model(graph([node("Constant", "", "y", value=tensor)], [], outputs))
    if where == "branch":
        branch = graph([node("Identity", "w", "y")], [], outputs, [tensor])
        choice = node("If", "on", "y", then_branch=branch, else_branch=branch)
        return model(graph([choice], [port("on", [], TensorProto.BOOL)], outputs))
    if where == "function":
        constant = node("Constant", "", "y", value=tensor)
        function = helper.make_function("own", "Weights", [], ["y"], [constant], [helper.make_opsetid("", 21)])
        main = graph([helper.make_node("Weights", [], ["y"], domain="own")], [], outputs)
        versions = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
        proto = helper.make_model(main, opset_imports=versions, functions=[function], ir_version=10)
        return bytes(proto.SerializeToString())
    raise ValueError(where)
