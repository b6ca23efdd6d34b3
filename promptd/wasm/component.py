"""Faces of `wasi:nn/{tensor,graph,inference,errors,prompt}` for components, one table for each version promptd serves.

The signatures are those of https://github.com/WebAssembly/wasi-nn/blob/main/wit/wasi-nn.wit (commit 71320d9), of its
tags, and of wit/ here. What has no version is in unversioned.py.
"""

from __future__ import annotations

from typing import Any

from promptd.errors import PromptdError, code_of
from promptd.tensor import Tensor, TensorType
from promptd.wasm import properties, staged
from promptd.wasm.chat import CHAT, OUTPUT, TOKENS, TYPES
from promptd.wasm.embeddings import EMBEDDINGS
from promptd.wasm.face import Face
from promptd.wasm.held import Execution, Failure, LoadedGraph
from promptd.wasm.nn import Nn
from promptd.wasm.prompt import PROMPT
from promptd.wasm.staged import StagedExecution

WITH_ERROR_CONSTRUCTOR = "0.2.0-rc-2024-06-25"
STAGED = "0.2.0-rc-2024-08-19"
COALESCED = "0.2.0-rc-2024-10-28"
PHASE_3 = "0.2.0-rc-phase-3"


def failure(error: PromptdError) -> Failure:
    """Spell an error as the resource `wasi:nn/errors.error`."""
    return Failure(code_of(error).wit, str(error))


def _tensor(_nn: Nn, dimensions: list[int], type_name: str, data: bytes) -> Tensor:
    return Tensor(tuple(dimensions), TensorType(type_name), data)


def load(nn: Nn, builders: list[bytes], encoding: str, _target: str) -> LoadedGraph:
    """`graph.load`. Where a graph is executed is for the operator to say, whatever target the guest names."""
    return nn.load(builders, encoding)


def _error(_nn: Nn, code: str, data: str) -> Failure:
    return Failure(code, data)


TENSOR = Face(
    {
        "[constructor]tensor": _tensor,
        "[method]tensor.dimensions": lambda _nn, tensor: list(tensor.dimensions),
        "[method]tensor.ty": lambda _nn, tensor: tensor.type.value,
        "[method]tensor.data": lambda _nn, tensor: tensor.data,
    },
    {"tensor": Tensor},
)

_ERROR_METHODS: dict[str, Any] = {
    "[method]error.code": lambda _nn, error: error.code,
    "[method]error.data": lambda _nn, error: error.data,
}
ERRORS = Face(_ERROR_METHODS, {"error": Failure})
ERRORS_CONSTRUCTED = Face({**_ERROR_METHODS, "[constructor]error": _error}, {"error": Failure})

INFERENCE_COALESCED = Face(
    {"[method]graph-execution-context.compute": Nn.compute}, {"graph-execution-context": Execution}, failure
)
INFERENCE_STAGED = Face(
    {
        "[method]graph-execution-context.set-input": staged.set_input,
        "[method]graph-execution-context.compute": staged.compute,
        "[method]graph-execution-context.get-output": staged.get_output,
    },
    {"graph-execution-context": StagedExecution},
    failure,
)

_LOADS: dict[str, Any] = {"load": load, "load-by-name": Nn.load_by_name}
GRAPH_COALESCED = Face(
    {"[method]graph.init-execution-context": Nn.open_execution, **_LOADS}, {"graph": LoadedGraph}, failure
)
GRAPH_STAGED = Face(
    {"[method]graph.init-execution-context": staged.open_staged, **_LOADS}, {"graph": LoadedGraph}, failure
)
GRAPH_PHASE_3 = Face(
    {
        "[method]graph.init-execution-context": Nn.open_execution,
        "[method]graph.list-properties": lambda _nn, graph: properties.names(graph.graph),
        "[method]graph.get-property": lambda _nn, graph, name: properties.get(graph.graph, name),
        "[method]graph.set-property": properties.set_on,
        "load": Nn.load_by_name,
    },
    {"graph": LoadedGraph},
    failure,
)

_VERSIONS: dict[str, dict[str, Face]] = {
    WITH_ERROR_CONSTRUCTOR: {"errors": ERRORS_CONSTRUCTED, "inference": INFERENCE_STAGED, "graph": GRAPH_STAGED},
    STAGED: {"errors": ERRORS, "inference": INFERENCE_STAGED, "graph": GRAPH_STAGED},
    COALESCED: {"errors": ERRORS, "inference": INFERENCE_COALESCED, "graph": GRAPH_COALESCED},
    PHASE_3: {"errors": ERRORS, "inference": INFERENCE_COALESCED, "graph": GRAPH_PHASE_3},
}

FACES: dict[str, Face] = {
    **{
        f"wasi:nn/{interface}@{version}": face
        for version, own in _VERSIONS.items()
        for interface, face in {"tensor": TENSOR, "prompt": PROMPT, **own}.items()
    },
    "promptd:prompt/types@0.1.0": TYPES,
    "promptd:prompt/chat@0.1.0": CHAT,
    "promptd:prompt/embeddings@0.1.0": EMBEDDINGS,
    "promptd:prompt/tokens@0.1.0": TOKENS,
    "promptd:prompt/output@0.1.0": OUTPUT,
}
"""Every interface with a version, beside WASI 0.2, that a component can import, by its full name."""
