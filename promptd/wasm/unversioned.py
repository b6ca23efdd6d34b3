"""Faces of `wasi:nn` without a version, which is three packages of one name; a component's imports tell which it means.

| shape | hosted by | handles | errors | inputs and outputs |
|---|---|---|---|---|
| U1 | Wasmtime 13 to 22 | numbers | an enum, with `busy` | by index (by name since wasi-nn 8bd40e2) |
| U2 | Wasmtime 23 | resources | an enum, with `timeout` | by name |
| U3 | no release | resources | a resource with a constructor | by name |

All are staged. U1 is https://github.com/WebAssembly/wasi-nn/blob/e2310b8/wit/wasi-nn.wit, U2 is wit/wasi-nn.wit of
Wasmtime 23's crates/wasi-nn, U3 is https://github.com/WebAssembly/wasi-nn/blob/c0840c2/wit/wasi-nn.wit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wasmtime.component import EnumType, Record, ResourceType

from promptd.errors import PromptdError, code_of
from promptd.tensor import Tensor, TensorType
from promptd.wasm import component, staged
from promptd.wasm.face import Face
from promptd.wasm.held import LoadedGraph
from promptd.wasm.nn import Nn
from promptd.wasm.prompt import PROMPT, PROMPT_BY_NUMBER
from promptd.wasm.staged import StagedExecution

PREFIX = "wasi:nn/"

STAND_INS = {
    "busy": "runtime-error",
    "timeout": "runtime-error",
    "security": "not-found",
    "unknown": "runtime-error",
}
"""What an error is called where the enum lacks its code. A denied name does not differ from an unknown one."""


def _load_by_name(nn: Nn, name: str) -> int:
    return nn.hold(nn.load_by_name(name))


def _load(nn: Nn, builders: list[bytes], encoding: str, target: str) -> int:
    return nn.hold(component.load(nn, builders, encoding, target))


def _init(nn: Nn, graph: int) -> int:
    return nn.hold(staged.open_staged(nn, nn.resources.get(graph, LoadedGraph)))


def _set_input(nn: Nn, context: int, index: int | str, tensor: Record) -> None:
    fields: dict[str, Any] = vars(tensor)
    staged.set_input(
        nn,
        nn.resources.get(context, StagedExecution),
        str(index),
        Tensor(tuple(fields["dimensions"]), TensorType(fields["tensor-type"]), fields["data"]),
    )


def _compute(nn: Nn, context: int) -> None:
    staged.compute(nn, nn.resources.get(context, StagedExecution))


def _get_output(nn: Nn, context: int, index: int | str) -> bytes:
    return staged.get_output(nn, nn.resources.get(context, StagedExecution), str(index)).data


U1: dict[str, Face] = {
    "tensor": Face({}),
    "errors": Face({}),
    "graph": Face({"load": _load, "load-by-name": _load_by_name}),
    "inference": Face(
        {"init-execution-context": _init, "set-input": _set_input, "compute": _compute, "get-output": _get_output}
    ),
    "prompt": PROMPT_BY_NUMBER,
}
U2: dict[str, Face] = {
    "tensor": component.TENSOR,
    "errors": Face({}),
    "graph": component.GRAPH_STAGED,
    "inference": component.INFERENCE_STAGED,
    "prompt": PROMPT,
}
U3: dict[str, Face] = {**U2, "errors": component.ERRORS_CONSTRUCTED}


def unversioned(imports: Mapping[str, Mapping[str, Any]]) -> dict[str, Face]:
    """Return the faces of `wasi:nn` without a version, by full name, in the shape that a component means.

    `imports` are the types and functions of each interface the component imports, by their names.
    """
    interfaces = [items for name, items in imports.items() if name.startswith(PREFIX) and "@" not in name]
    error = _first(interfaces, "error")
    if any(isinstance(_first(interfaces, name), ResourceType) for name in ("graph", "tensor", "error")):
        shape = U2 if isinstance(error, EnumType) else U3
    else:
        shape = U1
    if isinstance(error, EnumType):
        spell = _case_of(error.names)
        shape = {
            name: replace(face, error=spell) if name in ("graph", "inference") else face for name, face in shape.items()
        }
    return {PREFIX + name: face for name, face in shape.items()}


def _first(interfaces: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((items[name] for items in interfaces if name in items), None)


def _case_of(labels: Sequence[str]) -> Callable[[PromptdError], str]:
    """Return how an error is spelt as one of the `labels` of the guest's enum."""

    def case(error: PromptdError) -> str:
        name = code_of(error).name
        return name if name in labels else STAND_INS.get(name, name)

    return case
