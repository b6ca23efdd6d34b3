"""The unified KV cache: which sequences are resident, which cells they hold and share, and who must leave when cells or
sequence ids are short.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Protocol

from promptd.engine.cells import Cells
from promptd.engine.prefix_tree import PrefixTree
from promptd.engine.quota import Quotas, held
from promptd.engine.sequence import Sequence, SequenceState
from promptd.engine.spill import Spill
from promptd.engine.transcript import common_prefix

RENT_TOKENS = 128
"""While so many tokens are decoded, an idle cell costs about as much time as it takes to save and restore it: with
SmolLM2-135M and llama.cpp as released 2,000 idle cells make a step of 1 token 0.65 ms longer and one of 16 tokens 7 ms,
and saving and restoring a cell takes 25 to 35 us. With the patched one a step of any width is 0.2 to 0.6 ms longer, and
128 steps in place of 128 tokens made no difference that could be measured.
"""
LOOK_TOKENS = 8
"""After so many tokens it is looked for such sequences."""
MOVED_CELLS = 256
"""Between two steps no more idle sequences are saved once they had so many cells together: that takes a few
milliseconds.
"""


class Memory(Protocol):
    """llama.cpp's side of the cache."""

    @property
    def divisible(self) -> bool: ...

    def remove(self, sequence: int, start: int = 0) -> bool: ...
    def copy(self, source: int, target: int, start: int = -1, end: int = -1) -> None: ...
    def clear(self) -> None: ...


class KVCache:
    """Accounts for every cell of llama.cpp's cache.

    Cells are counted by reference, since forks and equal beginnings of prompts share them. An idle sequence stays
    resident until its cells or its slot are needed; the least recently used leaves first, and is saved, to be restored
    at its next turn. So is one whose conversation is closed: other prompts may begin like it. One that stays while
    others decode for long is saved and leaves too, since llama.cpp looks at every used cell for every token.
    """

    def __init__(
        self, memory: Memory, cells: int, slots: int, spill: Spill | None = None, quotas: Quotas | None = None
    ) -> None:
        """With `spill`, sequences are saved when they have to leave."""
        self._quotas = quotas or Quotas(None, {}, cells=cells, slots=slots)
        self._memory = memory
        self._spill = spill
        self._cells = Cells(cells)
        self._free_slots = list(range(slots))
        self._residents: set[Sequence] = set()
        self._guests: dict[str, set[Sequence]] = {}
        """The residents of each guest that has any."""
        self._idle: OrderedDict[Sequence, int] = OrderedDict()
        """Those that may be evicted, the least recently used first, with `_decoded` of then."""
        self._decoded = 0
        """Tokens decoded while idle sequences were there."""
        self._next_look = 0
        """How many they are when it is looked for those that should leave."""
        self._retired: set[Sequence] = set()
        self._tree = PrefixTree()
        self._announced: dict[Sequence, int] = {}
        """Active sequences, by the order in which they were announced."""
        self._announcements = 0
        self.evictions = 0

    @property
    def resident(self) -> int:
        """Sequences with a slot that somebody may still go on with."""
        return len(self._residents) - len(self._retired)

    @property
    def retired(self) -> int:
        """Sequences with a slot whose conversations are closed."""
        return len(self._retired)

    @property
    def total(self) -> int:
        """All cells."""
        return self._cells.total

    @property
    def used(self) -> int:
        """Cells that hold a token."""
        return self.total - self.free

    @property
    def free(self) -> int:
        """Cells that hold none."""
        return self._cells.free

    @property
    def divisible(self) -> bool:
        """Whether a part of a sequence's cells can be shared or given back."""
        return self._memory.divisible

    @property
    def evictable(self) -> int:
        """Cells that only idle sequences hold."""
        idle = {cell for sequence in self._idle for cell in sequence.cells}
        for sequence in self._residents:
            if sequence not in self._idle:
                idle.difference_update(sequence.cells)
        return len(idle)

    def room(self, guest: str) -> int:
        """Return how many free cells `guest` may take."""
        quota = self._quotas.cells(guest)
        return self.free if quota is None else min(self.free, max(0, quota - held(self._guests.get(guest, ()), 0)))

    def allows(self, guest: str, cells: int) -> bool:
        """Return whether the quota of `guest` has `cells` cells beside those of its active sequences."""
        quota = self._quotas.cells(guest)
        if quota is None:
            return True
        active = [sequence for sequence in self._guests.get(guest, ()) if sequence not in self._idle]
        return held(active, quota - cells) + cells <= quota

    def allows_sequence(self, guest: str) -> bool:
        """Return whether the quota of `guest` has a slot beside those of its active sequences."""
        quota = self._quotas.slots(guest)
        return quota is None or sum(sequence not in self._idle for sequence in self._guests.get(guest, ())) < quota

    def activate(self, sequence: Sequence) -> bool:
        """Protect `sequence` from eviction and give it a slot; false when all slots, or its guest's, are active."""
        self._idle.pop(sequence, None)
        if sequence.slot is None:
            quota = self._quotas.slots(sequence.guest)
            if (
                quota is not None
                and len(self._guests.get(sequence.guest, ())) >= quota
                and not self._evict(sequence.guest)
            ):
                return False
            if not self._free_slots and not self._evict():
                return False
            sequence.slot = self._free_slots.pop()
            self._residents.add(sequence)
            self._guests.setdefault(sequence.guest, set()).add(sequence)
        return True

    def park(self, sequence: Sequence) -> None:
        """Let `sequence` be evicted from now on, after all that are idle already."""
        self._announced.pop(sequence, None)
        if sequence.slot is not None:
            self._idle[sequence] = self._decoded
            self._idle.move_to_end(sequence)
            self._place(sequence, sequence.tokens[: sequence.computed])

    def spill(self, sequence: Sequence) -> None:
        """Make a sequence non-resident: what it holds is saved."""
        retired = sequence in self._retired
        if self._spill is not None and (not retired or self._spill.affords(sequence, retired=True)):
            self._spill.save(sequence, retired=retired)
        self.release(sequence)

    def decoded(self, tokens: int) -> None:
        """Note that so many tokens were decoded; save and release idle sequences whose cells have cost them more time
        than that takes, if there is memory for it.
        """
        self._decoded += tokens
        if self._decoded < self._next_look or self._spill is None or not self._memory.divisible:
            return
        self._next_look = self._decoded + LOOK_TOKENS
        moved = 0
        for sequence in [each for each, since in self._idle.items() if self._decoded - since >= RENT_TOKENS]:
            if moved >= MOVED_CELLS:
                self._next_look = self._decoded
                return
            if self._is_moved_cheaply(sequence, self._spill):
                moved += sequence.computed
                self.spill(sequence)
            else:
                self._idle[sequence] = self._decoded

    def _is_moved_cheaply(self, sequence: Sequence, spill: Spill) -> bool:
        """Return whether most of a sequence's cells get free when it leaves, and memory has room for them."""
        shared = self._cells.shared(sequence.cells)
        return 2 * shared < sequence.computed and spill.affords(sequence, retired=sequence in self._retired)

    def wake(self, sequence: Sequence) -> None:
        """Restore into an active sequence that holds no cells what was saved of it, or of one that begins like it."""
        spill = self._spill
        if spill is None or sequence.slot is None or sequence.cells:
            return
        wanted = sequence.tokens
        _, cached = self._longest(sequence, wanted[:-1])
        source = spill.find(sequence, wanted[:-1], cached=cached, free=self.free)
        if source is None or not self.make_room(spill.cells(source), sequence.guest):
            return
        tokens = spill.restore(source, sequence.slot)
        if tokens is not None:
            sequence.tokens = tokens
            self.extend(sequence, len(tokens))
            self.truncate(sequence, common_prefix(tokens, wanted[:-1]))
            sequence.tokens = wanted
            spill.used(source, sequence)

    def retire(self, sequence: Sequence) -> None:
        """Keep what an idle sequence holds, and nobody goes on with, for prompts that begin like it."""
        if self._spill is not None:
            if sequence.slot is None:
                self._spill.retire(sequence)
            else:
                self._spill.drop(sequence)
        if sequence.slot is None:
            return
        if not sequence.cells or not self._memory.divisible:
            self.release(sequence)
            return
        self._retired.add(sequence)
        source, shared = self._longest(sequence, sequence.tokens[: sequence.computed])
        if source is not None and shared >= sequence.computed:  # another has all of them
            self.release(sequence)

    def announce(self, sequence: Sequence) -> None:
        """Let others find an active sequence by all its tokens, which it is about to compute."""
        self._announced[sequence] = self._announcements
        self._announcements += 1
        self._place(sequence, sequence.tokens)

    def join(self, sequence: Sequence) -> None:
        """Give an active sequence references to the cells of the resident one that begins most like it.

        Its last token is left to be decoded, for the logits.
        """
        source, shared = self._longest(sequence, sequence.tokens[:-1])
        if source is None or not self._refer(source, sequence, shared):
            return
        if source in self._retired and source.computed <= shared:  # it has nothing of its own any more
            self.release(source)
        elif source in self._idle:
            self._idle[source] = self._decoded
            self._idle.move_to_end(source)

    def leader(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """Return the sequence that is computing most of what `sequence` needs next, and how many tokens they share.

        Of two with equally many cells the one announced first leads, so that no two wait for each other.
        """

        def leads(other: Sequence) -> bool:
            if other.state is not SequenceState.PREFILL:
                return False
            mine = self._announced.get(sequence, self._announcements)
            return (other.computed, -self._announced[other]) > (sequence.computed, -mine)

        if not self._memory.divisible:
            return None
        found = [
            (other, shared)
            for other, shared in self._matches(sequence, sequence.tokens[:-1])
            if shared > max(sequence.computed, other.computed) and leads(other)
        ]
        return max(found, key=lambda match: match[1], default=None)

    def follow(self, sequence: Sequence, leader: Sequence, shared: int) -> None:
        """Give `sequence` references to what `leader` has computed of the `shared` tokens they begin with."""
        self._refer(leader, sequence, min(shared, leader.computed))

    def make_room(self, cells: int, guest: str) -> bool:
        """Evict idle sequences until `cells` cells are free, and within the quota of `guest`; false when that is not
        enough.
        """
        quota = self._quotas.cells(guest)
        while quota is not None and held(self._guests.get(guest, ()), quota - cells) + cells > quota:
            if not self._evict(guest):
                return False
        while self.free < cells:
            if not self._evict():
                return False
        return True

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Take cells for the next `tokens` pending tokens of an active sequence; `make_room` has made them free."""
        sequence.cells += self._cells.take(tokens)

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
        self._tree.remove(sequence)
        self._announced.pop(sequence, None)
        self._memory.remove(sequence.slot)
        self._give_back(sequence, 0)
        self._free_slots.append(sequence.slot)
        sequence.slot = None
        self._residents.remove(sequence)
        self._guests[sequence.guest].remove(sequence)
        if not self._guests[sequence.guest]:
            del self._guests[sequence.guest]
        self._retired.discard(sequence)

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
        self._hold(target, source.cells)
        self.park(target)

    def clear(self) -> None:
        """Forget everything, after a step that left the cache undefined."""
        for sequence in list(self._residents):
            self.release(sequence)
        self._memory.clear()

    def _evict(self, guest: str | None = None) -> bool:
        """Release the least recently used idle sequence, of `guest` if one is given; false when there is none."""
        oldest = next((sequence for sequence in self._idle if guest in (None, sequence.guest)), None)
        if oldest is None:
            return False
        self.spill(oldest)
        self.evictions += 1
        return True

    def _place(self, sequence: Sequence, tokens: array[int]) -> None:
        if self._memory.divisible:
            self._tree.place(sequence, (sequence.guest, sequence.adapters), tokens)
            self._tree.place(sequence, (None, sequence.adapters), tokens[: sequence.public])

    def _matches(self, sequence: Sequence, tokens: array[int]) -> list[tuple[Sequence, int]]:
        """Return the other sequences that begin like `tokens`, and the length: what the guest itself has cached, and
        what all may share.
        """
        found = [
            *self._tree.matches((sequence.guest, sequence.adapters), tokens),
            *self._tree.matches((None, sequence.adapters), tokens[: sequence.public]),
        ]
        return [(other, shared) for other, shared in found if other is not sequence]

    def _longest(self, sequence: Sequence, tokens: array[int]) -> tuple[Sequence | None, int]:
        """Return the other sequence that has most of `tokens` in its cells, and how many."""
        found = [(other, min(shared, other.computed)) for other, shared in self._matches(sequence, tokens)]
        return max(found, key=lambda match: match[1], default=(None, 0))

    def _refer(self, source: Sequence, target: Sequence, end: int) -> bool:
        """Give `target` references to the cells of `source` from where its own end up to `end`; false if it has
        those.
        """
        start = target.computed
        if end <= start or source.slot is None or target.slot is None:
            return False
        self._memory.copy(source.slot, target.slot, start, end)
        self._hold(target, source.cells[start:end])
        return True

    def _hold(self, sequence: Sequence, cells: list[int]) -> None:
        """Append cells that another sequence holds already."""
        sequence.cells += cells
        self._cells.hold(cells)

    def _give_back(self, sequence: Sequence, length: int) -> None:
        """Drop the sequence's hold on its cells from `length` on."""
        dropped = sequence.cells[length:]
        del sequence.cells[length:]
        self._cells.give_back(dropped)
