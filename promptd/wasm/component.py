"""Faces of `wasi:nn/{tensor,graph,inference,errors}` for components, one table for each version that promptd serves.

The signatures are those of https://github.com/WebAssembly/wasi-nn/blob/main/wit/wasi-nn.wit (commit 71320d9) and of
wit/ here.
"""

from __future__ import annotations

from promptd.errors import PromptdError, code_of
from promptd.tensor import Tensor, TensorType
from promptd.wasm.chat import CHAT, OUTPUT, TOKENS, TYPES
from promptd.wasm.face import Face
from promptd.wasm.nn import Execution, Failure, LoadedGraph, Nn
from promptd.wasm.prompt import PROMPT

RELEASED = "0.2.0-rc-2024-10-28"
PHASE_3 = "0.2.0-rc-phase-3"


def failure(error: PromptdError) -> Failure:
    """Spell an error as the resource `wasi:nn/errors.error`."""
    return Failure(code_of(error).wit, str(error))


def _tensor(_nn: Nn, dimensions: list[int], type_name: str, data: bytes) -> Tensor:
    return Tensor(tuple(dimensions), TensorType(type_name), data)


def _load(nn: Nn, builders: list[bytes], encoding: str, _target: str) -> LoadedGraph:
    return nn.load(builders, encoding)


TENSOR = Face(
    {
        "[constructor]tensor": _tensor,
        "[method]tensor.dimensions": lambda _nn, tensor: list(tensor.dimensions),
        "[method]tensor.ty": lambda _nn, tensor: tensor.type.value,
        "[method]tensor.data": lambda _nn, tensor: tensor.data,
    },
    {"tensor": Tensor},
)

ERRORS = Face(
    {
        "[method]error.code": lambda _nn, error: error.code,
        "[method]error.data": lambda _nn, error: error.data,
    },
    {"error": Failure},
)

INFERENCE = Face(
    {"[method]graph-execution-context.compute": Nn.compute}, {"graph-execution-context": Execution}, failure
)

GRAPH = Face(
    {
        "[method]graph.init-execution-context": Nn.open_execution,
        "load": _load,
        "load-by-name": Nn.load_by_name,
    },
    {"graph": LoadedGraph},
    failure,
)

GRAPH_BY_NAME = Face(
    {"[method]graph.init-execution-context": Nn.open_execution, "load": Nn.load_by_name},
    {"graph": LoadedGraph},
    failure,
)

FACES: dict[str, Face] = {
    **{
        f"wasi:nn/{interface}@{version}": face
        for version, graph in ((RELEASED, GRAPH), (PHASE_3, GRAPH_BY_NAME))
        for interface, face in (
            ("tensor", TENSOR),
            ("errors", ERRORS),
            ("inference", INFERENCE),
            ("graph", graph),
            ("prompt", PROMPT),
        )
    },
    "promptd:prompt/types@0.1.0": TYPES,
    "promptd:prompt/chat@0.1.0": CHAT,
    "promptd:prompt/tokens@0.1.0": TOKENS,
    "promptd:prompt/output@0.1.0": OUTPUT,
}
"""Every interface beside WASI 0.2 that a component can import, by its full name."""
