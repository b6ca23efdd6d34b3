"""The face of `wasi:nn/prompt`, the same under each version of wasi:nn: https://github.com/WebAssembly/wasi-nn/pull/79.

Errors are strings, `CODE: sentence`. `init` takes its graph by own or by borrow, and where graphs are numbers, by
number; the guest's import type decides.
"""

from __future__ import annotations

from dataclasses import replace

from promptd.errors import sentence
from promptd.wasm.face import Face
from promptd.wasm.held import LoadedGraph, Prompt
from promptd.wasm.nn import Nn

PROMPT = Face(
    {"init": Nn.open_prompt, "[method]context.compute": Nn.prompt},
    {"context": Prompt},
    sentence,
)


def _init_by_number(nn: Nn, graph: int) -> Prompt:
    return nn.open_prompt(nn.resources.get(graph, LoadedGraph))


PROMPT_BY_NUMBER = replace(PROMPT, functions={**PROMPT.functions, "init": _init_by_number})
