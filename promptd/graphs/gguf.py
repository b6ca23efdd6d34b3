"""Reads the header of a GGUF file in pure Python: what `show` prints, and the check a file passes before llama.cpp
sees it.

llama.cpp's own reader has had memory-safety bugs that a crafted file reaches (CVE-2025-53630, CVE-2026-27940), so
everything it derives sizes from is checked here first, at least as strictly as `gguf_init_from_reader` in
ggml/src/gguf.cpp does. Nothing is trusted: the only exceptions that leave `read_gguf` are PromptdErrors.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from promptd.errors import InvalidEncoding, NotFound, RuntimeFailure
from promptd.graphs.bytes_reader import BytesReader, Damaged
from promptd.graphs.ggml_types import (
    ARRAY,
    BOOL,
    FILE_TYPES,
    FLOATS,
    STRING,
    TENSOR_KINDS,
    UINT32,
    VALUE_FORMATS,
    TensorKind,
)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_ENTRIES = 1 << 16
"""Metadata entries, and tensors, a file may have: llama.cpp looks for duplicates in quadratic time."""
MAX_KEY = 1024
"""Bytes of a metadata key; the specification (ggml/docs/gguf.md) allows 65535, the longest in use have some 60."""
MAX_TEXT = 1 << 22
"""Bytes of a metadata string that is kept, such as a chat template."""
KEPT_TEXTS = (
    "general.architecture",
    "general.name",
    "general.type",
    "adapter.type",
    "general.license",
    "tokenizer.ggml.model",
    "tokenizer.chat_template",
)
"""The strings `GgufInfo` holds; others are passed over, since a file may have gigabytes of them."""
MAX_STRINGS = 1 << 23
"""Strings in one array; the largest vocabularies have some hundred thousand tokens and a few million merges."""
MAX_TENSOR_NAME = 63
MAX_DIMENSIONS = 4
MAX_ELEMENTS = (1 << 63) - 1
MAX_BLOCKS = 512
"""Layers; llama.cpp aborts where there are more, or none (LLAMA_MAX_LAYERS in src/llama-hparams.h)."""

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """What a GGUF file says of itself; sizes in bytes, lengths in tokens or dimensions."""

    version: int
    architecture: str
    name: str | None
    parameters: int
    """Elements of all tensors together."""
    quantisation: str
    """The file type, e.g. `Q4_K_M`; where the file does not say, the tensor type most bytes are in."""
    tensor_types: dict[str, int]
    """How many tensors are of each type."""
    context_length: int | None
    embedding_length: int | None
    chat_template: str | None
    licence: str | None
    tokenizer: str | None
    vocabulary: int | None
    """Tokens of the vocabulary."""
    parts: int
    """Files the model is split over; 1 when it is whole."""
    size: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its type, and its dimensions as they stand there, the fastest first."""

    type: str
    shape: tuple[int, ...]


def read_gguf(path: Path) -> GgufInfo:
    """Check the header of the GGUF file at `path` and return what it says; raises as `read_header`."""
    return read_header(path).info


def read_header(path: Path) -> Header:
    """Check the header of the GGUF file at `path` and return it whole.

    Raises InvalidEncoding with one sentence that names file and cause, NotFound where there is no file, and
    RuntimeFailure where it cannot be read.
    """
    descriptor, size = _open(path)
    try:
        return Header(BytesReader(descriptor, size))
    except Damaged as damage:
        raise InvalidEncoding(f"{path} is not a usable GGUF file: {damage}") from damage
    except OSError as error:
        raise RuntimeFailure(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, int]:
    """Open a regular file for reading; O_NONBLOCK so that a named pipe is refused instead of waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise InvalidEncoding(f"{path} is not a usable GGUF file: it is {kind}")
    return descriptor, status.st_size


class Header:
    """One pass over a header: magic and counts, metadata, tensor infos, and the layout of the tensor data."""

    def __init__(self, reader: BytesReader) -> None:
        """Read all of it; raises Damaged."""
        self._reader = reader
        self._metadata: dict[str, Scalar] = {}
        self._kinds: dict[str, int] = {}
        """Value type of every key, also of those whose value is skipped."""
        self._lengths: dict[str, int] = {}
        """Length of every array."""
        self.tensors: dict[str, TensorInfo] = {}
        self.info: GgufInfo = self._read()

    def text(self, key: str) -> str | None:
        """Return one of KEPT_TEXTS; None where the file does not say, or says something else than text."""
        value = self._metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Return a whole number; None where the file does not say, or says something else, an array for example."""
        value = self._metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def kind(self, key: str) -> int | None:
        """Return the value type of a key; None where there is no such key."""
        return self._kinds.get(key)

    def _read(self) -> GgufInfo:
        reader = self._reader
        version, tensors = self._preamble()
        alignment = self._alignment()
        parameters, offset = 0, 0
        histogram: Counter[str] = Counter()
        weight: Counter[str] = Counter()
        ends: list[tuple[str, int]] = []
        for _ in range(tensors):
            name, kind, shape, elements, count, stated = self._tensor()
            if name in self.tensors:
                _refuse(f"it has two tensors called {name!r}")
            self.tensors[name] = TensorInfo(kind.name, shape)
            if stated != offset:
                _refuse(f"tensor {name!r} is said to begin at {stated}, but the tensors before it end at {offset}")
            ends.append((name, offset + count))
            offset = _padded(offset + count, alignment)
            parameters += elements
            histogram[kind.name] += 1
            weight[kind.name] += count
        start = _padded(reader.position, alignment)
        for name, end in ends:
            if start + end > reader.size:
                _refuse(f"it is cut short: tensor {name!r} ends at byte {start + end} of a file of {reader.size}")
        architecture = self._text("general.architecture")
        if not architecture:
            _refuse("it does not say general.architecture")
        blocks = self._count(f"{architecture}.block_count")
        if blocks is not None and not 0 < blocks <= MAX_BLOCKS:
            _refuse(f"it claims {blocks} layers, and 1 to {MAX_BLOCKS} are accepted")
        file_type = self._count("general.file_type")
        quantisation = FILE_TYPES.get(file_type) if file_type is not None else None
        return GgufInfo(
            version=version,
            architecture=architecture,
            name=self._text("general.name"),
            parameters=parameters,
            quantisation=quantisation or (weight.most_common(1)[0][0] if weight else "none"),
            tensor_types=dict(histogram.most_common()),
            context_length=self._count(f"{architecture}.context_length"),
            embedding_length=self._count(f"{architecture}.embedding_length"),
            chat_template=self._text("tokenizer.chat_template"),
            licence=self._text("general.license"),
            tokenizer=self._text("tokenizer.ggml.model"),
            vocabulary=self._lengths.get("tokenizer.ggml.tokens"),
            parts=self._count("split.count") or 1,
            size=reader.size,
        )

    def _preamble(self) -> tuple[int, int]:
        """Read magic, version, counts and all metadata; return the version and the number of tensors."""
        reader = self._reader
        if reader.size == 0:
            _refuse("it is empty")
        magic = bytes(reader.take(min(4, reader.size), "the magic"))
        if magic != MAGIC:
            _refuse(f"it begins with {magic!r} instead of {MAGIC!r}")
        version = reader.number("<I", "the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            if swapped in VERSIONS:
                _refuse("it is big-endian")
            _refuse(f"its version is {version}; promptd reads {VERSIONS[0]} and {VERSIONS[1]}")
        tensors = reader.number("<Q", "the number of tensors")
        entries = reader.number("<Q", "the number of metadata entries")
        for what, number in (("tensors", tensors), ("metadata entries", entries)):
            if number > MAX_ENTRIES:
                _refuse(f"it claims {number} {what}, and at most {MAX_ENTRIES} are accepted")
        for index in range(entries):
            self._entry(index)
        return version, tensors

    def _entry(self, index: int) -> None:
        reader = self._reader
        key = reader.text(MAX_KEY, f"metadata key {index}")
        if not key:
            _refuse(f"metadata key {index} is empty")
        if "\0" in key:
            _refuse(f"metadata key {key!r} holds a NUL")
        if key in self._kinds:
            _refuse(f"it has the metadata key {key!r} twice")
        kind = reader.number("<i", f"the type of {key!r}")
        self._kinds[key] = kind
        if kind == STRING and key in KEPT_TEXTS:
            self._metadata[key] = reader.text(MAX_TEXT, f"the value of {key!r}", strict=False)
        elif kind == STRING:
            reader.skip_texts(1, f"the value of {key!r}")
        elif kind == ARRAY:
            self._lengths[key] = self._skip_array(key)
        elif kind in VALUE_FORMATS:
            value: Scalar = reader.number(VALUE_FORMATS[kind], f"the value of {key!r}")
            self._metadata[key] = bool(value) if kind == BOOL else value
        else:
            _refuse(f"metadata key {key!r} has the unknown type {kind}")

    def _skip_array(self, key: str) -> int:
        reader = self._reader
        kind = reader.number("<i", f"the element type of {key!r}")
        length: int = reader.number("<Q", f"the length of {key!r}")
        if kind == STRING:
            if length > MAX_STRINGS:
                _refuse(f"the array {key!r} claims {length} strings, and at most {MAX_STRINGS} are accepted")
            reader.skip_texts(length, f"the array {key!r}")
        elif kind in VALUE_FORMATS:
            reader.skip_numbers(VALUE_FORMATS[kind], length, f"the array {key!r}")
        else:
            _refuse(f"the array {key!r} has the unusable element type {kind}")
        return length

    def _alignment(self) -> int:
        kind = self._kinds.get("general.alignment")
        if kind is None:
            return DEFAULT_ALIGNMENT
        alignment = self._metadata.get("general.alignment")
        if kind != UINT32 or not isinstance(alignment, int):
            _refuse("general.alignment is not a 32-bit unsigned number")
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            _refuse(f"general.alignment is {alignment}, not a power of two up to {MAX_ALIGNMENT}")
        return alignment

    def _tensor(self) -> tuple[str, TensorKind, tuple[int, ...], int, int, int]:
        """Read one tensor info: name, type, shape, elements, bytes and stated offset."""
        reader = self._reader
        name = reader.text(MAX_TENSOR_NAME, "a tensor's name")
        if "\0" in name:
            _refuse(f"the tensor name {name!r} holds a NUL")
        dimensions = reader.number("<I", f"the dimensions of tensor {name!r}")
        if dimensions > MAX_DIMENSIONS:
            _refuse(f"tensor {name!r} has {dimensions} dimensions, and at most {MAX_DIMENSIONS} are accepted")
        shape = [reader.number("<q", f"the shape of tensor {name!r}") for _ in range(dimensions)]
        elements = 1
        for length in shape:
            if length < 1:
                _refuse(f"tensor {name!r} has a dimension of {length}")
            elements *= length
            if elements >= MAX_ELEMENTS:
                _refuse(f"tensor {name!r} of shape {shape} has too many elements")
        number = reader.number("<i", f"the type of tensor {name!r}")
        offset: int = reader.number("<Q", f"the offset of tensor {name!r}")
        kind = TENSOR_KINDS.get(number)
        if kind is None:
            _refuse(f"tensor {name!r} is of the unknown type {number}")
        row = shape[0] if shape else 1
        if row % kind.block:
            _refuse(f"tensor {name!r} has rows of {row} elements, not a multiple of the {kind.block} of {kind.name}")
        return name, kind, tuple(shape), elements, elements // kind.block * kind.bytes, offset

    def _text(self, key: str) -> str | None:
        if key not in self._kinds:
            return None
        value = self._metadata.get(key)
        if not isinstance(value, str):
            _refuse(f"{key} is not a string")
        return value

    def _count(self, key: str) -> int | None:
        kind = self._kinds.get(key)
        if kind is None:
            return None
        value = self._metadata.get(key)
        if kind in (ARRAY, BOOL, *FLOATS) or not isinstance(value, int) or value < 0:
            _refuse(f"{key} is not a count")
        return value


def _padded(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) & ~(alignment - 1)


def _refuse(reason: str) -> NoReturn:
    raise Damaged(reason)
