"""The unified KV cache: which sequences are resident, which cells they hold, and who must leave when cells or
sequence ids are short.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from promptd.engine.sequence import Sequence


class Memory(Protocol):
    """llama.cpp's side of the cache."""

    def remove(self, sequence: int, start: int = 0) -> bool: ...
    def copy(self, source: int, target: int) -> None: ...
    def clear(self) -> None: ...


class KVCache:
    """Accounts for every cell of llama.cpp's cache.

    Cells are counted by reference, since forks share them. An idle sequence stays resident until its cells or its
    slot are needed; the least recently used leaves first, and keeps its tokens, to be prefilled again at its next
    turn.
    """

    def __init__(self, memory: Memory, cells: int, slots: int) -> None:
        self._memory = memory
        self._free_cells = list(range(cells))
        self._free_slots = list(range(slots))
        self._extra_holders: dict[int, int] = {}
        self._idle: OrderedDict[Sequence, None] = OrderedDict()
        self.total = cells
        self.resident = 0
        self.evictions = 0

    @property
    def used(self) -> int:
        """Cells that hold a token."""
        return self.total - len(self._free_cells)

    @property
    def free(self) -> int:
        """Cells that hold none."""
        return len(self._free_cells)

    @property
    def evictable(self) -> int:
        """Cells of idle sequences; those that are shared with an active one would not become free."""
        return sum(len(sequence.cells) for sequence in self._idle)

    def activate(self, sequence: Sequence) -> bool:
        """Protect `sequence` from eviction and give it a slot; false when all slots are active."""
        self._idle.pop(sequence, None)
        if sequence.slot is None:
            if not self._free_slots and not self._evict():
                return False
            sequence.slot = self._free_slots.pop()
            self.resident += 1
        return True

    def park(self, sequence: Sequence) -> None:
        """Let `sequence` be evicted from now on, after all that are idle already."""
        if sequence.slot is not None:
            self._idle[sequence] = None
            self._idle.move_to_end(sequence)

    def make_room(self, cells: int) -> bool:
        """Evict idle sequences until `cells` cells are free; false when that is not enough."""
        while len(self._free_cells) < cells:
            if not self._evict():
                return False
        return True

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Take cells for the next `tokens` pending tokens of an active sequence; `make_room` has made them free."""
        if tokens:
            sequence.cells += self._free_cells[-tokens:]
            del self._free_cells[-tokens:]

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Keep only the first `length` cells, or none where the model's memory cannot be cut (recurrent models)."""
        if length >= len(sequence.cells) or sequence.slot is None:
            return
        if length > 0 and not self._memory.remove(sequence.slot, length):
            length = 0
        if length == 0:
            self._memory.remove(sequence.slot)
        self._give_back(sequence, length)

    def release(self, sequence: Sequence) -> None:
        """Make `sequence` non-resident. Does nothing if it is."""
        self._idle.pop(sequence, None)
        if sequence.slot is None:
            return
        self._memory.remove(sequence.slot)
        self._give_back(sequence, 0)
        self._free_slots.append(sequence.slot)
        sequence.slot = None
        self.resident -= 1

    def share(self, source: Sequence, target: Sequence) -> None:
        """Make new sequence `target` resident with all cells of `source`, if a slot can be had without evicting
        `source`.
        """
        if source.slot is None or not source.cells:
            return
        self.park(source)
        if not self.activate(target):
            return
        if source.slot is None or target.slot is None:  # `source` was the only one that could be evicted
            self.release(target)
            return
        self._memory.copy(source.slot, target.slot)
        target.cells = list(source.cells)
        for cell in source.cells:
            self._extra_holders[cell] = self._extra_holders.get(cell, 0) + 1
        self.park(target)

    def clear(self, residents: list[Sequence]) -> None:
        """Forget everything, after a step that left the cache undefined."""
        for sequence in residents:
            self.release(sequence)
        self._memory.clear()

    def _evict(self) -> bool:
        """Release the least recently used idle sequence; false when there is none."""
        if not self._idle:
            return False
        self.release(next(iter(self._idle)))
        self.evictions += 1
        return True

    def _give_back(self, sequence: Sequence, length: int) -> None:
        """Drop the sequence's hold on its cells from `length` on."""
        dropped = sequence.cells[length:]
        del sequence.cells[length:]
        if not self._extra_holders:
            self._free_cells += dropped
            return
        for cell in dropped:
            holders = self._extra_holders.get(cell, 0)
            if holders == 0:
                self._free_cells.append(cell)
            elif holders == 1:
                del self._extra_holders[cell]
            else:
                self._extra_holders[cell] = holders - 1
