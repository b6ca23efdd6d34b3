"""Takes an ONNX model into onnxruntime, after a look at whether it is one and which other files it reaches for.

A model may come from a guest. onnxruntime follows a tensor's `external_data` to other files, relative to the working
directory when the model came as bytes, so every tensor of the file is looked at first. That walks the protobuf wire
format over the messages of onnx.proto that lead to a tensor, without copying weights and without a protobuf library.

Wire format: https://protobuf.dev/programming-guides/encoding/
Messages: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from promptd.errors import (
    InvalidArgument,
    InvalidEncoding,
    NotFound,
    PromptdError,
    RuntimeFailure,
    SecurityDenied,
    TooLarge,
    UnsupportedOperation,
)

MAX_THREADS = 4
"""Threads one graph computes with at most: the cores are shared with guests, other graphs and llama.cpp."""

MEMORY_SHARE = 0.5
"""How much of the machine's memory the weights and tensors of one of the operator's ONNX graphs may take."""

GUEST_MODEL_MEMORY = 1024**3
"""Bytes that weights and tensors of a model given as bytes may take."""

GPU_PROVIDERS = ("CUDAExecutionProvider", "CoreMLExecutionProvider")

NO_OPERATOR = ("No Op registered", "not a registered function", "Exception during initialization")
NO_MEMORY = ("Failed to allocate memory", "Available memory of", "bad_alloc")
"""What onnxruntime 1.32 says, under its general code FAIL, where an operator is missing and where memory is."""

MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TensorProto": {},
}
"""Field number to message, for each message of onnx.proto that holds a tensor somewhere below it."""

MODEL_GRAPH, GRAPH_INPUT = 7, 11
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_SHAPE = 1, 2, 1, 2
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2

MAX_DEPTH = 100
"""Nested messages, as in protobuf's own parsers."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

ORT_MEMORY_MARKER = "_ORT_MEM_ADDR_"
"""onnxruntime's own mark for "this location is an address in memory", which no file has a right to use:
https://github.com/microsoft/onnxruntime/pull/28709"""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an ONNX file says of itself."""

    external: frozenset[str]
    """Locations of the files some tensors are in; empty when all are in the model."""
    unranked: frozenset[str]
    """Inputs declared without a shape. onnxruntime shows them as it shows scalars, `[]`."""


_log = logging.getLogger(__name__)
_setting_up = threading.Lock()
_memory = 0
"""Bytes that the sessions of this process may take; see `set_memory`."""


def load_session(model: Path | bytes, providers: list[str], options: Any) -> tuple[Any, frozenset[str]]:
    """Return onnxruntime's session for a file or bytes, and which inputs have no declared rank."""
    source: str | bytes
    if isinstance(model, bytes):
        facts, source = read_facts(model), model
        check_external(facts.external, None)
    else:
        facts, source = read_facts(_mapped(model)), str(model)
        check_external(facts.external, model.parent)
    try:
        return _session(source, providers, options), facts.unranked
    except Exception as error:
        raise _load_error(error) from error


def session_options() -> Any:
    """Return onnxruntime's options for a session of one of many graphs on shared cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = min(MAX_THREADS, cores)
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def choose_providers(target: str, available: Iterable[str]) -> tuple[list[str], str | None]:
    """Return onnxruntime's execution providers in order of preference, and a warning when there is no such target."""
    gpus = [name for name in GPU_PROVIDERS if name in available]
    if target != "cpu" and gpus:
        return [gpus[0], "CPUExecutionProvider"], None
    if target != "gpu":
        return ["CPUExecutionProvider"], None
    return ["CPUExecutionProvider"], (
        "this onnxruntime has no GPU provider, so the graph runs on the CPU; install onnxruntime-gpu to change that"
    )


def memory_limit(model: Path | bytes) -> int:
    """Return how many bytes the weights and tensors of `model` may take."""
    machine = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
    return machine if isinstance(model, Path) else min(machine, GUEST_MODEL_MEMORY)


def onnxruntime() -> Any:
    """Return onnxruntime, imported when first needed, with its log set up for the whole process."""
    with _setting_up:
        return _set_up()


def set_memory(limit: int) -> None:
    """Let the sessions made in this process after this take at most `limit` bytes together."""
    global _memory
    runtime = onnxruntime()
    place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    arena = runtime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})  # 1: as much as is asked for.
    runtime.create_and_register_allocator(place, arena)
    _memory = limit


def run_error(error: Exception) -> PromptdError:
    """Return onnxruntime's reason for failing to compute, as ours."""
    text = _reason(error)
    if _is_memory(text):
        return _memory_error()
    if type(error).__name__ == "InvalidArgument":
        return InvalidArgument(f"the ONNX graph does not take these inputs: {text}")
    return RuntimeFailure(f"the ONNX graph failed to compute: {text}")


def read_facts(model: memoryview | bytes) -> ModelFacts:
    """Return what `model` says of itself; raises InvalidEncoding when it is not an ONNX protobuf."""
    external: set[str] = set()
    ranks: dict[str, bool] = {}
    graphs = 0
    waiting = [("ModelProto", memoryview(model), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidEncoding(f"this is not an ONNX model: its messages are nested more than {MAX_DEPTH} deep")
        if kind == "TensorProto":
            external |= _external_location(message)
            continue
        children = MESSAGES[kind]
        for number, value in _fields(message):
            if isinstance(value, int):
                continue
            if number in children:
                waiting.append((children[number], value, depth + 1))
            if kind == "ModelProto" and number == MODEL_GRAPH:
                graphs += 1
                for name, ranked in _graph_inputs(value):
                    ranks[name] = ranks.get(name, False) or ranked
    if not graphs:
        raise InvalidEncoding("this is not an ONNX model: it holds no graph")
    return ModelFacts(frozenset(external), frozenset(name for name, ranked in ranks.items() if not ranked))


def check_external(locations: frozenset[str], folder: Path | None) -> None:
    """Raise unless every location is a file in `folder`, links followed. None means that the model came as bytes.

    Raises InvalidArgument for bytes, SecurityDenied for a location outside the folder, NotFound for a missing file.
    """
    for location in sorted(locations):
        if folder is None:
            raise InvalidArgument(
                f"this model keeps weights in another file, {location!r}; one that is given as bytes must hold them all"
            )
        root = folder.resolve()
        path = (root / location).resolve() if "\0" not in location else root
        if ORT_MEMORY_MARKER in location or Path(location).is_absolute() or not path.is_relative_to(root):
            raise SecurityDenied(f"this model wants weights from {location!r}, which is outside the model's own folder")
        if not path.is_file():
            raise NotFound(f"this model keeps weights in {location!r}, and its folder has no such file")


def _external_location(tensor: memoryview) -> set[str]:
    """Return the location of the tensor's data, or nothing when the data is in the tensor."""
    external, location = False, ""
    for number, value in _fields(tensor):
        if number == TENSOR_DATA_LOCATION and value != 0:
            external = True
        elif number == TENSOR_EXTERNAL_DATA and not isinstance(value, int):
            external = True
            entry = {key: _text(part) for key, part in _fields(value) if not isinstance(part, int)}
            if entry.get(ENTRY_KEY) == "location":
                location = entry.get(ENTRY_VALUE, "")
    return {location} if external else set()


def _graph_inputs(graph: memoryview) -> Iterator[tuple[str, bool]]:
    """Yield the name of each input, and whether its rank is declared."""
    for number, value in _fields(graph):
        if number == GRAPH_INPUT and not isinstance(value, int):
            name = "".join(_text(part) for part in _messages(value, VALUE_NAME))
            shapes = (
                shape
                for kind in _messages(value, VALUE_TYPE)
                for tensor in _messages(kind, TYPE_TENSOR)
                for shape in _messages(tensor, TENSOR_SHAPE)
            )
            yield name, any(True for _ in shapes)


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in _fields(message) if number == wanted and not isinstance(value, int))


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "surrogateescape")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field: an int for a varint, bytes for all else."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == LENGTH:
            size, at = _varint(message, at)
        elif wire == FIXED64:
            size = 8
        elif wire == FIXED32:
            size = 4
        else:
            raise InvalidEncoding("this is not an ONNX model: it is not a protobuf message")
        if at + size > end:
            raise InvalidEncoding("this is not a whole ONNX model: it ends in the middle of a protobuf field")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the variable-length integer at `at`, and the position after it."""
    value = shift = 0
    for position in range(at, min(at + 10, len(message))):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise InvalidEncoding("this is not a whole ONNX model: it ends in the middle of a protobuf integer")


@cache
def _set_up() -> Any:
    level = os.environ.get("ORT_LOGGING_LEVEL")
    os.environ.setdefault("ORT_LOGGING_LEVEL", "3")  # It looks for GPUs while it is imported, and warns of none.
    import onnxruntime as runtime

    if level is None:
        del os.environ["ORT_LOGGING_LEVEL"]
    runtime.set_default_logger_callback(_on_log, 2)
    return runtime


def _mapped(path: Path) -> memoryview:
    """Return the bytes of a model file, which stay mapped as long as somebody holds them."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise NotFound(f"there is no ONNX model {path.name}") from error
    except OSError as error:
        raise InvalidArgument(f"cannot read the ONNX model {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidEncoding(f"{path.name} is an empty file, not an ONNX model") from error


def _session(source: str | bytes, providers: list[str], options: Any) -> Any:
    """Return a session on the first provider that starts; the CPU is the last of them."""
    session = onnxruntime().InferenceSession
    try:
        return session(source, options, providers=providers, enable_fallback=0, read_config_from_model=0)
    except Exception as error:
        if len(providers) == 1:
            raise
        _log.warning("onnxruntime cannot load this model on %s: %s", providers[0], _reason(error))
        return _session(source, providers[1:], options)


def _on_log(severity: int, category: str, logid: str, location: str, message: str) -> None:
    """Log one of onnxruntime's messages, quieter than it would: what goes wrong comes back as an exception."""
    levels = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.INFO, logging.ERROR)
    _log.log(levels[severity], "onnxruntime: %s (%s)", message.strip(), location)


def _load_error(error: Exception) -> PromptdError:
    """Return onnxruntime's reason for refusing a model, as ours."""
    text = _reason(error)
    if _is_memory(text):
        return _memory_error()
    if type(error).__name__ == "NotImplemented" or any(sign in text for sign in NO_OPERATOR):
        return UnsupportedOperation(f"onnxruntime cannot execute an operator of this ONNX model: {text}")
    return InvalidEncoding(f"this ONNX model is not valid: {text}")


def _is_memory(text: str) -> bool:
    return any(sign in text for sign in NO_MEMORY)


def _memory_error() -> TooLarge:
    return TooLarge(f"the ONNX graph needs more memory than the {_memory // 1024**2} MiB it may take")


def _reason(error: Exception) -> str:
    """Return onnxruntime's message as one line, without its codes, its source lines and the model's path."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", str(error))
    text = re.sub(r"/\S+\.(?:cc|h):\d+ [^(]*\([^)]*\)(?: const|::<lambda\(\)>| \[with [^\]]*\])* ", "", text)
    text = re.sub(r"^Load model from .*? failed: ?", "", text)
    return " ".join(text.split())[:400].rstrip(".")
