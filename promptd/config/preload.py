"""Graphs named WasmEdge's way on the command line, with `--nn-preload`."""

from __future__ import annotations

from typing import Literal

from promptd.config.graph import GraphSettings, graph_settings
from promptd.errors import InvalidArgument

PRELOAD_ENCODINGS = frozenset({"ggml", "onnx", "autodetect"})
"""Encodings of `--nn-preload` that promptd executes; what a file is, its first bytes say."""

PRELOAD_TARGETS: dict[str, Literal["cpu", "gpu", "auto"]] = {"cpu": "cpu", "gpu": "gpu", "tpu": "auto", "auto": "auto"}


def nn_preload(text: str) -> tuple[str, GraphSettings]:
    """Return name and settings of the graph that `NAME:ENCODING:TARGET:PATH` preloads, WasmEdge's way to name one.

    ENCODING and TARGET are case-insensitive, PATH may hold colons. Raises InvalidArgument.
    """
    parts = text.split(":", 3)
    if len(parts) < 4 or not parts[3]:
        raise InvalidArgument(f"--nn-preload {text!r} is not of the form NAME:ENCODING:TARGET:PATH")
    name, encoding, target, path = parts
    if encoding.lower() not in PRELOAD_ENCODINGS:
        raise InvalidArgument(
            f"--nn-preload {text!r}: promptd does not execute {encoding!r}; ENCODING is GGML, ONNX or AutoDetect"
        )
    if target.lower() not in PRELOAD_TARGETS:
        raise InvalidArgument(f"--nn-preload {text!r}: {target!r} is no TARGET; it is CPU, GPU, TPU or AUTO")
    return name, graph_settings(name, f"file:{path}", {"target": PRELOAD_TARGETS[target.lower()]})
