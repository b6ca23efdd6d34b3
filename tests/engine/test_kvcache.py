from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from promptd.engine import llama
from promptd.engine.kvcache import LOOK_TOKENS, MOVED_CELLS, RENT_TOKENS, KVCache
from promptd.engine.sequence import Sequence
from promptd.engine.spill import Spill

CELLS, SLOTS = 512, 3


class Cache(KVCache):
    """A KVCache on a real llama_context, which it fills as a step would."""

    def __init__(self, context: llama.Context, spill: Spill | None = None, slots: int = SLOTS) -> None:
        super().__init__(context, context.cells, slots, spill)
        self.context = context
        self.batch = llama.Batch(CELLS)

    def fill(self, sequence: Sequence, tokens: int) -> None:
        """Decode `tokens` more tokens of an active sequence."""
        assert self.make_room(tokens, sequence.guest)
        assert sequence.slot is not None
        start = sequence.computed
        del sequence.tokens[start:]
        sequence.tokens.extend([20 + index % 200 for index in range(start, start + tokens)])
        self.extend(sequence, tokens)
        self.batch.clear()
        self.batch.add(sequence.tokens[start:], start, sequence.slot, output=True)
        self.context.decode(self.batch)

    def resident_sequence(self, tokens: int) -> Sequence:
        sequence = Sequence("guest")
        assert self.activate(sequence)
        self.fill(sequence, tokens)
        self.park(sequence)
        return sequence


@pytest.fixture
def context(tiny: Callable[..., Path]) -> llama.Context:
    llama.start()
    model = llama.Model(tiny(context=CELLS), gpu_layers=0)
    context = llama.Context(model, cells=CELLS, sequences=2 * SLOTS, step_tokens=CELLS, threads=1, offload=False)
    assert context.cells == CELLS
    return context


@pytest.fixture
def cache(context: llama.Context) -> Cache:
    return Cache(context)


@pytest.fixture
def saving(context: llama.Context) -> Cache:
    """A cache that has room for many, and memory for what leaves it."""
    return Cache(context, Spill(context, memory=1 << 26, disk=0, directory=None, model=b"model"), 2 * SLOTS)


def test_cells_are_counted_as_they_are_taken_and_given_back(cache: Cache) -> None:
    sequence = cache.resident_sequence(100)
    assert (cache.used, cache.free, cache.resident) == (100, CELLS - 100, 1)
    cache.truncate(sequence, 30)
    assert (cache.used, sequence.computed) == (30, 30)
    cache.release(sequence)
    assert (cache.used, cache.resident, sequence.slot) == (0, 0, None)
    cache.release(sequence)
    assert cache.resident == 0


def test_the_least_recently_used_idle_sequence_leaves_first(cache: Cache) -> None:
    first, second, third = (cache.resident_sequence(150) for _ in range(3))
    assert cache.activate(first)
    cache.park(first)
    assert cache.make_room(200, "guest")
    assert [sequence.computed for sequence in (first, second, third)] == [150, 0, 150]
    assert cache.evictions == 1
    assert len(second.tokens) == 150, "its tokens stay, to be prefilled again"


def test_active_sequences_are_not_evicted(cache: Cache) -> None:
    sequence = cache.resident_sequence(300)
    cache.activate(sequence)
    assert not cache.make_room(300, "guest")
    assert sequence.computed == 300


def test_a_sequence_id_is_taken_from_an_idle_sequence_when_none_is_free(cache: Cache) -> None:
    residents = [cache.resident_sequence(10) for _ in range(SLOTS)]
    newcomer = Sequence("guest")
    assert cache.activate(newcomer)
    assert residents[0].slot is None
    others = [Sequence("guest"), Sequence("guest")]
    assert [cache.activate(other) for other in others] == [True, True]
    assert not cache.activate(Sequence("guest")), "all slots are active"


def test_a_fork_shares_cells_until_either_side_grows(cache: Cache) -> None:
    source = cache.resident_sequence(100)
    fork = Sequence("guest", source.tokens[:])
    cache.share(source, fork)
    assert fork.computed == 100
    assert cache.used == 100
    cache.activate(fork)
    cache.fill(fork, 20)
    assert cache.used == 120
    cache.truncate(source, 50)
    assert cache.used == 120, "the fork still holds all"
    cache.release(fork)
    assert cache.used == 50


def test_cells_of_many_forks_are_free_when_the_last_is_gone(cache: Cache) -> None:
    source = cache.resident_sequence(100)
    forks = [Sequence("guest", source.tokens[:]) for _ in range(2)]
    for fork in forks:
        cache.share(source, fork)
    for sequence in (forks[0], source, forks[1]):
        assert cache.used == 100
        cache.release(sequence)
    assert cache.used == 0


def test_the_accounts_agree_with_llama_cpp(cache: Cache) -> None:
    """All cells the accounts call free can in fact be decoded into, after every kind of change."""
    source = cache.resident_sequence(100)
    fork = Sequence("guest", source.tokens[:])
    cache.share(source, fork)
    cache.truncate(source, 40)
    cache.release(fork)
    cache.activate(source)
    cache.fill(source, 11)
    other = Sequence("guest")
    cache.activate(other)
    cache.fill(other, cache.free)
    assert cache.free == 0
    with pytest.raises(llama.LlamaError):
        cache.batch.clear()
        cache.batch.add(array("i", [20]), other.computed, other.slot or 0, output=True)
        cache.context.decode(cache.batch)


def test_idle_sequences_leave_together_once_others_have_decoded_for_long(saving: Cache) -> None:
    idle = [saving.resident_sequence(30) for _ in range(4)]
    busy = Sequence("busy")
    assert saving.activate(busy)
    saving.decoded(RENT_TOKENS - 1)
    assert [each.computed for each in idle] == [30] * 4
    saving.decoded(LOOK_TOKENS)
    assert [each.computed for each in idle] == [0] * 4
    assert (saving.used, saving.evictions) == (0, 0)
    for each in idle:
        assert saving.activate(each)
        saving.wake(each)
        assert each.computed == 29, "all but the last token, which is decoded for its logits"


def test_no_more_leave_between_two_steps_than_is_saved_in_a_moment(saving: Cache) -> None:
    large = MOVED_CELLS - 100
    idle = [saving.resident_sequence(large), saving.resident_sequence(101), saving.resident_sequence(30)]
    saving.decoded(RENT_TOKENS)
    assert [each.computed for each in idle] == [0, 0, 30]
    saving.decoded(1)
    assert [each.computed for each in idle] == [0, 0, 0]


def test_without_memory_to_save_to_closed_conversations_stay(cache: Cache) -> None:
    closed = cache.resident_sequence(40)
    cache.retire(closed)
    cache.decoded(2 * RENT_TOKENS)
    assert closed.computed == 40
