"""Graphs a guest brings itself, as bytes: small ones only, looked at before a backend sees them.

wasi-nn's numberings of encodings disagree (wasi-nn.md 2.6), so it is the first bytes that say what a model is. A GGUF
file is written to a file nobody else can read, which is gone once it is loaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from promptd.backends.base import Graph
from promptd.config import EngineSettings, GraphSettings
from promptd.errors import InvalidArgument, InvalidEncoding, PromptdError, TooLarge

GGUF = b"GGUF"
PRELOAD = b"preload:"
"""How WasmEdge's guests name a file of the host where the model's bytes should be."""

MODEL_NAME = "model of the guest"

GUEST_MODEL_ENGINE = EngineSettings(kv_tokens=4096, max_sequences=8, queue=16)
"""A model that one guest brought serves that guest only."""

GUEST_MODEL_KV_BYTES = 256 * 1024**2
"""A small file can describe a model with an enormous KV cache."""


def open_bytes(builders: Sequence[bytes], encoding: str, limit: int, deadline: float | None = None) -> Graph:
    """Load the model in the first of `builders`; the others are the caller's. `limit` is in bytes.

    Raises InvalidArgument without a model, TooLarge, InvalidEncoding for what is neither GGUF nor ONNX, and what the
    backend raises.
    """
    if not builders or not builders[0]:
        raise InvalidArgument("there is no model: the first builder is empty")
    model = builders[0]
    if model.startswith(PRELOAD):
        raise InvalidArgument("a guest cannot name a file of the host; load a granted graph by its name")
    if len(model) > limit:
        raise TooLarge(f"this model is {len(model)} bytes; one that is given as bytes may be {limit} at most")
    if model.startswith(GGUF) and encoding != "onnx":
        return _open_gguf(model)
    if model[:1] == b"\x08" and encoding != "ggml":  # an ONNX ModelProto opens with field 1, ir_version
        from promptd.backends.onnx import OnnxGraph

        return OnnxGraph(model, limit=limit, deadline=deadline)
    raise InvalidEncoding("this model is not what its encoding says, or neither a GGUF nor an ONNX file")


def _open_gguf(model: bytes) -> Graph:
    from promptd.backends.ggml import GgmlGraph
    from promptd.backends.gguf_shape import read_shape

    with tempfile.TemporaryDirectory(prefix="promptd-") as folder:
        path = Path(folder) / "model.gguf"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - its mode
            file.write(model)
        try:
            settings, shape = GraphSettings(model=MODEL_NAME), read_shape(path)
            return GgmlGraph(path, settings, GUEST_MODEL_ENGINE, kv_bytes=GUEST_MODEL_KV_BYTES, shape=shape)
        except PromptdError as error:
            raise type(error)(str(error).replace(str(path), MODEL_NAME).replace(path.name, MODEL_NAME)) from error
