"""The face of `wasi:nn/prompt`, the same under each version of wasi:nn: https://github.com/WebAssembly/wasi-nn/pull/79.

Errors are strings, `CODE: sentence`. `init` takes its graph by own or by borrow; the guest's import type decides.
"""

from __future__ import annotations

from promptd.errors import sentence
from promptd.wasm.face import Face
from promptd.wasm.nn import Nn, Prompt

PROMPT = Face(
    {"init": Nn.open_prompt, "[method]context.compute": Nn.prompt},
    {"context": Prompt},
    sentence,
)
