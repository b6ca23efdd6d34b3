"""Where sequences go that leave the KV cache: their cells' bytes, in memory and then in files, until the next turn
restores them, or another prompt of the same guest that begins alike.

What closed conversations leave behind stays in memory, has a part of the budget, and goes first.

A file is worth no more than its digest: keyed, so that only this worker can have written it, over the model, the
guest and the tokens it stands for. The directory belongs to the parent process, which removes it with the worker.
"""

from __future__ import annotations

import os
import secrets
import time
from array import array
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from promptd.engine.prefix_tree import PrefixTree
from promptd.engine.sequence import Sequence
from promptd.engine.transcript import common_prefix

WORTH_SPILLING = 4
"""Fewer tokens than this cost no more to prefill than to keep."""
RETIRED_SHARE = 4
"""One part in this many of the memory budget is for what closed conversations leave behind."""
FINGERPRINT_BYTES = 1024**2
_DIGEST_BYTES = 32
_SMOOTHING = 0.2


def fingerprint(path: Path) -> bytes:
    """Return what tells a model file from others: a digest of its metadata's beginning, with its size and age."""
    status = path.stat()
    with path.open("rb") as file:
        head = file.read(FINGERPRINT_BYTES)
    return blake2b(head + f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=_DIGEST_BYTES).digest()


class States(Protocol):
    """llama.cpp's side: the bytes of one sequence's cells."""

    @property
    def divisible(self) -> bool: ...

    def save(self, sequence: int) -> bytearray: ...
    def restore(self, sequence: int, data: bytes | bytearray) -> bool: ...


@dataclass(slots=True)
class _Image:
    """What was saved of a sequence: its tokens, and their cells' bytes here or in a file."""

    tokens: array[int]
    size: int
    data: bytes | bytearray | None
    path: Path | None = None
    digest: bytes = b""


class Spill:
    """The saved sequences, the least recently saved first to go from memory to disk, and from there to nowhere."""

    def __init__(self, states: States, *, memory: int, disk: int, directory: Path | None, model: bytes) -> None:
        """`memory` and `disk` are budgets in bytes; `model` says which model the cells are of."""
        self._states = states
        self._memory_budget = memory
        self._disk_budget = disk if directory is not None else 0
        self._directory = directory
        self._model = model
        self._key = secrets.token_bytes(_DIGEST_BYTES)
        self._images: OrderedDict[Sequence, _Image] = OrderedDict()
        self._retired: dict[Sequence, None] = {}
        """Those of closed conversations."""
        self._tree = PrefixTree()
        self._token_bytes = 0
        """What a token took in the last image."""
        self._restore_byte: float | None = None
        """Mean seconds to restore a byte."""
        self.prefill_token: float | None = None
        """Mean seconds to prefill a token instead."""
        self.memory = 0
        self.retired_memory = 0
        """What closed conversations have of it."""
        self.disk = 0
        self.spilled = 0
        self.restored = 0
        self.rejected = 0

    def affords(self, sequence: Sequence, *, retired: bool) -> bool:
        """Return whether a copy of a sequence's cells fits into memory without another's being moved to disk, or,
        where its conversation is closed, into the part for those.
        """
        size = max(1, sequence.computed * self._token_bytes)
        if retired:
            return size <= self._memory_budget // RETIRED_SHARE
        return self.memory - self.retired_memory + size <= self._memory_budget

    def save(self, sequence: Sequence, *, retired: bool = False) -> None:
        """Keep a copy of the cells of a sequence that is about to lose them, if the budgets allow; `retired` says that
        its conversation is closed.
        """
        self.drop(sequence)
        budget = self._memory_budget + self._disk_budget
        if sequence.slot is None or sequence.computed < WORTH_SPILLING or not budget:
            return
        try:
            data = self._states.save(sequence.slot)
        except MemoryError:  # like a full disk it costs a prefill, not a conversation
            return
        if not data or len(data) > budget:
            return
        self._token_bytes = len(data) // sequence.computed
        tokens = sequence.tokens[: sequence.computed]
        self._images[sequence] = _Image(tokens, len(data), data)
        if self._states.divisible:
            self._tree.place(sequence, (sequence.guest, sequence.adapters), tokens)
            self._tree.place(sequence, (None, sequence.adapters), tokens[: sequence.public])
        self.memory += len(data)
        self.spilled += 1
        if retired:
            self.retire(sequence)
        self._keep_budgets()

    def retire(self, sequence: Sequence) -> None:
        """The conversation of a sequence is closed: what was saved of it is kept for prompts that begin like it, if it
        is in memory.
        """
        image = self._images.get(sequence)
        if image is None or sequence in self._retired:
            return
        if image.path is not None or not self._states.divisible:
            self.drop(sequence)
            return
        self._retired[sequence] = None
        self.retired_memory += image.size
        self._keep_budgets()

    @property
    def saved(self) -> int:
        """How many sequences are saved whose conversations live."""
        return len(self._images) - len(self._retired)

    def find(self, sequence: Sequence, tokens: array[int], *, cached: int, free: int) -> Sequence | None:
        """Return the sequence whose saved cells give most of a prompt of `sequence`; None where prefilling all beyond
        the `cached` first tokens is expected to be cheaper, or where more than the `free` cells are needed for little.
        """
        salt = sequence.adapters
        matches = dict(self._tree.matches((None, salt), tokens[: sequence.public]))
        matches |= dict(self._tree.matches((sequence.guest, salt), tokens))
        if own := self._images.get(sequence):
            matches[sequence] = common_prefix(own.tokens, tokens)
        best = max(matches, key=lambda each: matches[each], default=None)
        if best is None or not self._pays(self._images[best], matches[best] - cached, free):
            return None
        return best

    def _pays(self, image: _Image, gained: int, free: int) -> bool:
        """Return whether to restore an image is cheaper than to prefill so many tokens."""
        if len(image.tokens) > max(free, 2 * gained):
            return False
        if self._restore_byte is None or self.prefill_token is None:
            return gained > 0
        return image.size * self._restore_byte < gained * self.prefill_token

    def cells(self, sequence: Sequence) -> int:
        """Return how many cells a restore takes."""
        image = self._images.get(sequence)
        return len(image.tokens) if image else 0

    def restore(self, sequence: Sequence, slot: int) -> array[int] | None:
        """Put the saved cells of a sequence into a slot, which holds none; return their tokens, None when that fails.

        They stay saved, until `used` is told, unless that fails.
        """
        image = self._images.get(sequence)
        if image is None:
            return None
        began = time.monotonic()
        try:
            data = image.data if image.data is not None else self._read(sequence, image)
            restored = data is not None and self._states.restore(slot, data)
        except MemoryError:
            restored = False
        if data is None or not restored:
            self.drop(sequence)
            self.rejected += 1
            return None
        cost = (time.monotonic() - began) / len(data)
        before = self._restore_byte
        self._restore_byte = cost if before is None else before + _SMOOTHING * (cost - before)
        self.restored += 1
        return image.tokens

    def used(self, source: Sequence, sequence: Sequence) -> None:
        """Forget what was restored of `source` into `sequence` if nobody else needs it: the sequence's own, and what
        a closed conversation has left behind, all of which the sequence has now.
        """
        image = self._images.get(source)
        if source is sequence or (image and source in self._retired and sequence.computed == len(image.tokens)):
            self.drop(source)

    def drop(self, sequence: Sequence) -> None:
        """Forget what was saved of a sequence."""
        image = self._images.pop(sequence, None)
        if image is None:
            return
        self._tree.remove(sequence)
        if sequence in self._retired:
            del self._retired[sequence]
            self.retired_memory -= image.size
        if image.path is None:
            self.memory -= image.size
        else:
            self.disk -= image.size
            with suppress(OSError):
                image.path.unlink()

    def clear(self) -> None:
        """Forget everything."""
        for sequence in list(self._images):
            self.drop(sequence)

    def _keep_budgets(self) -> None:
        for sequence in list(self._retired):
            if self.memory <= self._memory_budget and self.retired_memory <= self._memory_budget // RETIRED_SHARE:
                break
            self.drop(sequence)
        for sequence, image in list(self._images.items()):
            if self.memory <= self._memory_budget:
                break
            if image.path is None:
                self._to_disk(sequence, image)
        for sequence, image in list(self._images.items()):
            if self.disk <= self._disk_budget:
                break
            if image.path is not None:
                self.drop(sequence)

    def _to_disk(self, sequence: Sequence, image: _Image) -> None:
        """Write an image to a file of its own; forget it where that is not possible."""
        if image.size > self._disk_budget or self._directory is None or image.data is None:
            self.drop(sequence)
            return
        path = self._directory / secrets.token_hex(16)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(image.data)
        except OSError:  # a full disk costs a prefill, not a conversation
            with suppress(OSError):
                path.unlink()
            self.drop(sequence)
            return
        image.digest = self._digest(sequence, image, image.data)
        image.path, image.data = path, None
        self.memory -= image.size
        self.disk += image.size

    def _read(self, sequence: Sequence, image: _Image) -> bytes | None:
        """Return the bytes in an image's file if they are those that were written."""
        assert image.path is not None
        try:
            data = image.path.read_bytes()
        except OSError:
            return None
        if not secrets.compare_digest(self._digest(sequence, image, data), image.digest):
            return None
        return data

    def _digest(self, sequence: Sequence, image: _Image, data: bytes | bytearray) -> bytes:
        digest = blake2b(key=self._key, digest_size=_DIGEST_BYTES)
        for part in (self._model, sequence.guest.encode("utf-8", "surrogatepass"), image.tokens.tobytes(), data):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.digest()
