"""The one list of backends, and how the backend of a model file is found: by what its first bytes are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from promptd.backends.base import Graph
from promptd.config import EngineSettings, GraphSettings
from promptd.errors import InvalidEncoding, NotFound, UnsupportedOperation

Open = Callable[[Path, GraphSettings, EngineSettings, Path | None], Graph]


def _ggml(path: Path, settings: GraphSettings, engine: EngineSettings, draft: Path | None) -> Graph:
    from promptd.backends.ggml import GgmlGraph
    from promptd.backends.gguf_shape import read_shape

    shape = read_shape(path)  # files from strangers have crashed llama.cpp, which would see this one next
    if draft is not None:
        read_shape(draft)
    return GgmlGraph(path, settings, engine, draft=draft, shape=shape)


def _onnx(path: Path, settings: GraphSettings, engine: EngineSettings, draft: Path | None) -> Graph:
    from promptd.backends.onnx import OnnxGraph

    if draft is not None:
        raise UnsupportedOperation("draft: only GGUF models can have a draft model")
    if settings.lora:
        raise UnsupportedOperation("lora: only GGUF models can have LoRA adapters")
    return OnnxGraph(path, target=settings.target)


BACKENDS: dict[str, Open] = {"ggml": _ggml, "onnx": _onnx}
"""Encodings that are executed, under their wasi-nn names. Each backend is imported when its first graph is opened."""


def encoding_of(path: Path) -> str:
    """Return the encoding of a model file; raises NotFound or InvalidEncoding, naming no folder: guests read it."""
    if path.exists() and not path.is_file():  # opening a FIFO would wait for ever
        raise InvalidEncoding(f"{path.name} is not a file that could be a model")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise NotFound(f"cannot read the model file {path.name}: {error.strerror}") from error
    if head.startswith(b"GGUF") or path.suffix == ".gguf":
        return "ggml"
    if path.suffix == ".onnx" or head[:1] == b"\x08":  # an ONNX ModelProto opens with field 1, ir_version
        return "onnx"
    raise InvalidEncoding(f"{path.name} is neither a GGUF nor an ONNX file")


def open_graph(path: Path, settings: GraphSettings, engine: EngineSettings, draft: Path | None = None) -> Graph:
    """Load the model file `path` with the backend of its encoding; `draft` is the file of its draft model."""
    return BACKENDS[encoding_of(path)](path, settings, engine, draft)
