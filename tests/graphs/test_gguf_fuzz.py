"""Mutations of a real model's header: the check accepts or refuses each with a sentence, and llama.cpp survives what it
accepts.
"""

from __future__ import annotations

import random
import resource
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from exact import EXACT
from gguf_files import padded

from promptd.engine.client import Engine
from promptd.errors import InvalidEncoding, PromptdError
from promptd.graphs.ggml_types import ARRAY, STRING, UINT32, VALUE_FORMATS
from promptd.graphs.gguf import read_gguf, read_header

MUTANTS = 2000
WHOLE_MUTANTS = 8
KEPT_ELEMENTS, KEPT_TENSORS = 8, 12
"""What the shortened header keeps of each array, and of the tensors, so that a mutant takes a fraction of a
millisecond, not seventy.
"""
ODD_NUMBERS = (0, 1, 3, 7, 31, 48, 64, 255, 1 << 16, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 63, (1 << 64) - 1)
MOST_MEMORY = 64 * 1024**2
"""Bytes the process may grow by, however much a header claims."""


@dataclass
class Layout:
    """A header taken apart: where its numbers stand, and where its entries and tensor infos begin and end."""

    data: bytes
    numbers: list[tuple[int, int]] = field(default_factory=list)
    """Position and width of counts, lengths, types, dimensions, offsets and values."""
    pieces: list[tuple[int, int]] = field(default_factory=list)
    position: int = 0

    def read(self) -> Layout:
        """Find all of it."""
        self.position = 4
        self._number(4)
        tensors, entries = self._number(8), self._number(8)
        for _ in range(entries):
            start = self.position
            self._text()
            self._value(self._number(4))
            self.pieces.append((start, self.position))
        for _ in range(tensors):
            start = self.position
            self._text()
            for _ in range(self._number(4)):
                self._number(8)
            self._number(4)
            self._number(8)
            self.pieces.append((start, self.position))
        return self

    def _number(self, width: int) -> int:
        self.numbers.append((self.position, width))
        self.position += width
        return int.from_bytes(self.data[self.position - width : self.position], "little")

    def _text(self) -> None:
        length = self._number(8)
        self.position += length

    def _value(self, kind: int) -> None:
        if kind == STRING:
            self._text()
        elif kind == ARRAY:
            kind, length = self._number(4), self._number(8)
            for _ in range(length):
                self._value(kind)
        else:
            self._number(struct.calcsize(VALUE_FORMATS[kind]))


def shortened(layout: Layout) -> bytes:
    """Return the header with arrays of at most KEPT_ELEMENTS, and KEPT_TENSORS tensors."""
    entries = int.from_bytes(layout.data[16:24], "little")
    parts = [layout.data[:8], struct.pack("<Q", KEPT_TENSORS), layout.data[16:24]]
    for start, end in layout.pieces[: entries + KEPT_TENSORS]:
        entry = layout.data[start:end]
        at = 8 + int.from_bytes(entry[:8], "little")
        if int.from_bytes(entry[at : at + 4], "little") == ARRAY and len(entry) > 1000:
            inner = Layout(entry, position=at + 16)
            for _ in range(KEPT_ELEMENTS):
                inner._value(int.from_bytes(entry[at + 4 : at + 8], "little"))
            entry = entry[: at + 8] + struct.pack("<Q", KEPT_ELEMENTS) + entry[at + 16 : inner.position]
        parts.append(entry)
    return b"".join(parts)


def mutated(dice: random.Random, layout: Layout) -> bytes:
    """Return the header with one change of a random kind."""
    data = bytearray(layout.data)
    match dice.randrange(7):
        case 0:
            for _ in range(dice.choice((1, 1, 8))):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case 1 | 2:
            at, width = dice.choice(layout.numbers)
            number = dice.choice(ODD_NUMBERS) & (1 << 8 * width) - 1
            data[at : at + width] = number.to_bytes(width, "little")
        case 3:
            at, width = dice.choice(layout.numbers)
            number = int.from_bytes(data[at : at + width], "little") + dice.choice((-1, 1, 8, 32))
            data[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
        case 4:
            start, end = dice.choice(layout.pieces)
            data[start:start] = layout.data[start:end]
        case 5:
            start, end = dice.choice(layout.pieces)
            del data[start:end]
        case 6:
            (start, end), (first, last) = sorted((dice.choice(layout.pieces), dice.choice(layout.pieces)))
            data[start:last] = layout.data[first:last] + layout.data[end:first] + layout.data[start:end]
    return bytes(data)


def write(path: Path, header: bytes, tail: int) -> None:
    """Write a header, and `tail` bytes of nothing that take no room on the disk."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(padded(len(header), 32) + tail)


@pytest.fixture(scope="module")
def whole(smollm2: Path) -> Layout:
    header = read_header(smollm2)
    with smollm2.open("rb") as file:
        return Layout(file.read(header._reader.position)).read()


@pytest.fixture(scope="module")
def tail(smollm2: Path, whole: Layout) -> int:
    """Bytes of tensor data."""
    return smollm2.stat().st_size - padded(whole.position, 32)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Let this process have no more address space than it has, and MOST_MEMORY."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("bounded_memory")
def test_a_mutated_header_is_accepted_or_refused_and_nothing_else(tmp_path: Path, whole: Layout, tail: int) -> None:
    dice = random.Random(20261125)
    short = Layout(shortened(whole)).read()
    path = tmp_path / "model.gguf"
    write(path, short.data, tail)
    read_gguf(path)
    outcomes = {True: 0, False: 0}
    for number in range(MUTANTS + WHOLE_MUTANTS):
        layout = short if number < MUTANTS else whole
        header = mutated(dice, layout)
        if number % 8:
            write(path, header, tail)
        else:
            write(path, header[: dice.randrange(len(header))], dice.choice((0, 1000, tail)))
        try:
            read_gguf(path)
        except PromptdError as refusal:
            assert "\n" not in str(refusal)
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > MUTANTS // 50, "the mutants show something about both"


@pytest.mark.parametrize("blocks", [0, 513, (1 << 32) - 1])
def test_a_number_of_layers_that_llama_cpp_aborts_on_is_refused(
    tmp_path: Path, whole: Layout, tail: int, blocks: int
) -> None:
    path = tmp_path / "model.gguf"
    write(path, edited(whole, "llama.block_count", blocks), tail)
    with pytest.raises(InvalidEncoding, match=f"it claims {blocks} layers"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("llama.block_count", 7),
        ("llama.context_length", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", (1 << 32) - 1),
        ("llama.embedding_length", (1 << 31) - 1),
        ("tokenizer.ggml.eos_token_id", (1 << 32) - 1),
    ],
)
def test_what_the_check_accepts_does_not_kill_the_worker(
    tmp_path: Path, whole: Layout, tail: int, key: str, number: int
) -> None:
    path = tmp_path / "model.gguf"
    write(path, edited(whole, key, number), tail)
    read_gguf(path)
    try:
        Engine(path, EXACT.model_copy(update={"kv_tokens": 256})).close()
    except PromptdError as refusal:
        assert str(refusal).startswith("llama.cpp cannot load model.gguf"), "the worker said so itself"


def edited(layout: Layout, key: str, number: int) -> bytes:
    """Return the header with another 32-bit value of `key`."""
    at = layout.data.index(key.encode() + struct.pack("<i", UINT32)) + len(key) + 4
    return layout.data[:at] + struct.pack("<I", number) + layout.data[at + 4 :]
