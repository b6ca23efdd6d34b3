"""Writes small GGUF files, whole ones and every kind of broken one."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UINT32, STRING, ARRAY, UINT64 = 4, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A metadata entry whose value is given as it stands in the file."""
    return text(key) + struct.pack("<i", kind) + value


def string(key: str, value: str | bytes) -> bytes:
    return entry(key, STRING, text(value))


def number(key: str, value: int) -> bytes:
    return entry(key, UINT32, struct.pack("<I", value))


def strings(key: str, values: list[str]) -> bytes:
    return entry(key, ARRAY, struct.pack("<iQ", STRING, len(values)) + b"".join(map(text, values)))


@dataclass
class Tensor:
    """A tensor info; `offset` None is where the tensors before it end."""

    name: str | bytes
    shape: tuple[int, ...]
    kind: int = 0
    offset: int | None = None
    size: int | None = None


def default_metadata() -> list[bytes]:
    return [
        string("general.architecture", "llama"),
        string("general.name", "A tiny model"),
        string("general.license", "mit"),
        number("general.file_type", 2),
        number("llama.context_length", 2048),
        number("llama.embedding_length", 64),
        string("tokenizer.ggml.model", "gpt2"),
        strings("tokenizer.ggml.tokens", ["<s>", "</s>", "a", "b"]),
        string("tokenizer.chat_template", "{{ messages }}"),
    ]


@dataclass
class Gguf:
    """A GGUF file in the making; every count and size can be lied about."""

    metadata: list[bytes] = field(default_factory=default_metadata)
    tensors: list[Tensor] = field(
        default_factory=lambda: [Tensor("token_embd.weight", (32, 4), kind=2), Tensor("output_norm.weight", (64,))]
    )
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    entries: int | None = None
    count: int | None = None
    filling: bytes = b"\0"

    def build(self, **changes: Any) -> bytes:
        for name, value in changes.items():
            setattr(self, name, value)
        head = self.magic + struct.pack(
            "<IQQ",
            self.version,
            len(self.tensors) if self.count is None else self.count,
            len(self.metadata) if self.entries is None else self.entries,
        )
        head += b"".join(self.metadata)
        offset = 0
        for tensor in self.tensors:
            stated = offset if tensor.offset is None else tensor.offset
            head += text(tensor.name) + struct.pack("<I", len(tensor.shape))
            head += b"".join(struct.pack("<q", length) for length in tensor.shape)
            head += struct.pack("<iQ", tensor.kind, stated)
            offset += padded(tensor.size if tensor.size is not None else _size(tensor), self.alignment)
        head = head.ljust(padded(len(head), self.alignment), b"\0")
        return head + (self.filling * offset)[:offset]


def _size(tensor: Tensor) -> int:
    block, size = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34)}.get(tensor.kind, (1, 1))
    elements = 1
    for length in tensor.shape:
        elements *= length
    return elements // block * size if 0 <= elements < 1 << 24 else 0


def padded(length: int, alignment: int) -> int:
    return (length + alignment - 1) // alignment * alignment


def tiny_gguf(seed: int = 0, size: int = 0) -> bytes:
    """Return a whole GGUF file of at least `size` bytes whose tensor data is pseudo-random."""
    rows = max(1, size // (32 * 4))
    gguf = Gguf(tensors=[Tensor("token_embd.weight", (32, rows))])
    gguf.metadata.append(number("promptd.test.seed", seed))
    data = gguf.build()
    header = len(data) - rows * 32 * 4
    state, noise = seed + 1, bytearray()
    block = bytearray()
    for _ in range(4096):
        state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        block.append(state >> 56)
    while len(noise) < len(data) - header:
        noise += block
    return data[:header] + bytes(noise[: len(data) - header])


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
