"""Quotas of the KV cache: what a guest has used up is its own matter, and nobody else's."""

from __future__ import annotations

import os
import signal
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from promptd.chat import Completion, Message
from promptd.config import EngineSettings
from promptd.engine import llama
from promptd.engine.client import Engine
from promptd.engine.kvcache import KVCache
from promptd.engine.messages import RawEnd
from promptd.engine.options import Sampling
from promptd.engine.quota import Quotas
from promptd.engine.rawreply import RawReply
from promptd.engine.sequence import Sequence
from promptd.errors import TooLarge

Ask = Callable[..., Completion]
CELLS, SLOTS = 512, 6
SHORT = Sampling(temperature=0, max_tokens=4)


@pytest.mark.parametrize(
    ("guest", "cells", "slots", "context"),
    [
        ("someone", 256, 8, 256),
        ("key/hog", 64, 2, 64),
        ("hog", 64, 2, 64),
        ("full", 512, 16, 300),
        ("tokens", 500, 16, 300),
        ("more than all", 512, 16, 300),
    ],
)
def test_a_quota_is_a_share_or_tokens_by_guest(guest: str, cells: int, slots: int, context: int) -> None:
    special = {"hog": 0.01, "full": 1.0, "tokens": 500.0, "more than all": 9000.0}
    quotas = Quotas(0.5, special, cells=CELLS, slots=16)
    assert (quotas.cells(guest), quotas.slots(guest), quotas.context(guest, 300)) == (cells, slots, context)


def test_without_a_quota_there_is_no_limit() -> None:
    quotas = Quotas(None, {}, cells=CELLS, slots=SLOTS)
    assert (quotas.cells("a"), quotas.slots("a"), quotas.context("a", 300)) == (None, None, 300)


class Cache(KVCache):
    """A KVCache on a real llama_context whose cells are taken without decoding."""

    def __init__(self, path: Path, **quotas: float) -> None:
        llama.start()
        model = llama.Model(path, gpu_layers=0)
        context = llama.Context(model, cells=CELLS, sequences=SLOTS, step_tokens=64, threads=1, offload=False)
        super().__init__(context, CELLS, SLOTS, quotas=Quotas(None, quotas, cells=CELLS, slots=SLOTS))

    def idle(self, guest: str, tokens: int) -> Sequence:
        sequence = self.active(guest, tokens)
        self.park(sequence)
        return sequence

    def active(self, guest: str, tokens: int) -> Sequence:
        sequence = Sequence(guest, array("i", range(1000 * tokens, 1001 * tokens)))
        assert self.activate(sequence)
        assert self.make_room(tokens, guest)
        self.extend(sequence, tokens)
        return sequence


@pytest.fixture
def make(tiny: Callable[..., Path]) -> Callable[..., Cache]:
    return lambda **quotas: Cache(tiny(context=CELLS), **quotas)


def test_a_guest_at_its_quota_evicts_its_own_idle_sequences_the_oldest_first(make: Callable[..., Cache]) -> None:
    cache = make(hog=200)
    other, first, second = cache.idle("other", 100), cache.idle("hog", 101), cache.idle("hog", 90)
    third = cache.active("hog", 100)
    assert [sequence.computed for sequence in (other, first, second, third)] == [100, 0, 90, 100]
    assert cache.room("hog") == 10
    assert not cache.make_room(101, "hog")
    assert (other.computed, second.computed, cache.evictions) == (100, 0, 2)


def test_a_guest_within_its_quota_evicts_the_least_recently_used_of_all(make: Callable[..., Cache]) -> None:
    cache = make(hog=200)
    hog, other, another = cache.idle("hog", 150), cache.idle("other", 250), cache.idle("another", 100)
    late = cache.active("other", 101)
    assert [sequence.computed for sequence in (hog, other, another, late)] == [0, 250, 100, 101]


def test_what_a_guests_sequences_share_counts_once_and_what_all_share_not_at_all(make: Callable[..., Cache]) -> None:
    cache = make(hog=200)
    source = cache.idle("hog", 100)
    forks = [Sequence("hog", source.tokens[:]) for _ in range(2)]
    for fork in forks:
        cache.share(source, fork)
        assert fork.computed == 100
    assert all(map(cache.activate, [*forks, source]))
    assert cache.room("hog") == 100
    assert cache.allows("hog", 100)
    assert not cache.allows("hog", 101)
    source.public = 60
    for fork in forks:
        fork.public = 60
    assert cache.room("hog") == 160


def test_sequence_ids_are_rationed_as_cells_are(make: Callable[..., Cache]) -> None:
    cache = make(hog=CELLS // 3)
    other, first, second = cache.idle("other", 10), cache.idle("hog", 11), cache.idle("hog", 12)
    third = cache.active("hog", 13)
    assert (other.slot is None, first.slot is None) == (False, True)
    assert cache.activate(second)
    assert not cache.allows_sequence("hog")
    assert not cache.activate(Sequence("hog"))
    assert (other.slot is None, third.slot is None) == (False, False)


@pytest.fixture(scope="module")
def rationed(smollm2: Path) -> Iterator[Engine]:
    settings = EngineSettings(threads=1, step_tokens=48, kv_tokens=512, kv_quotas=(("hog", 96),))
    with Engine(smollm2, settings) as engine:
        yield engine


def test_a_guest_that_fills_its_quota_costs_another_none_of_its_cells(rationed: Engine, ask: Ask) -> None:
    quiet = rationed.conversation("quiet", template="none")
    first = ask(quiet, "A quiet guest says this. " * 4, SHORT)
    hogs = [rationed.conversation("hog", template="none") for _ in range(4)]
    for number, hog in enumerate(hogs):
        ask(hog, f"{number} " * 20, SHORT)
    stats = rationed.stats()
    assert stats.evictions >= 2, "among its own"
    assert stats.kv_used <= 96 + first.usage.prompt + 4
    assert ask(quiet, "And this.", SHORT).usage.cached >= first.usage.prompt


def test_turns_beyond_the_quota_wait_for_each_other(rationed: Engine) -> None:
    before = rationed.stats()
    sampling = Sampling(temperature=0, max_tokens=20, ignore_end=True)
    replies = [rationed.generate("key/hog", array("i", [500 + number] * 50), sampling) for number in range(3)]
    assert [reply.result().usage.generated for reply in replies] == [20] * 3
    widths = rationed.stats().batch_widths
    assert {width for width, steps in widths.items() if steps > before.batch_widths.get(width, 0)} == {1}


def test_another_share_holds_at_once_and_ends_what_is_beyond_it(smollm2: Path) -> None:
    settings = EngineSettings(threads=1, step_tokens=48, kv_tokens=2048)
    sampling = Sampling(temperature=0, max_tokens=120, ignore_end=True)

    def begin(guest: str, tokens: int, ahead: int | None = None) -> RawReply:
        reply = engine.generate(guest, array("i", [500] * tokens), sampling, ahead=ahead)
        reply.next_piece()
        return reply

    with Engine(smollm2, settings) as engine:
        other, short, long, paused = begin("other", 150), begin("hog", 60, 2), begin("hog", 150), begin("hog", 160, 2)
        conversation = engine.conversation("hog", template="none")
        told = conversation.send([Message("user", "word " * 150)], sampling)
        next(iter(told))
        engine.share(settings.model_copy(update={"kv_quotas": (("hog", 128.0),)}))
        for reply in (long, paused, told):
            with pytest.raises(TooLarge, match="kv-quota was lowered"):
                reply.result()
        assert conversation.turns == 0
        assert 1 + len(list(short)) == 128 - 60
        assert short.end is RawEnd.CONTEXT_FULL
        assert other.result().usage.generated == 120
        with pytest.raises(TooLarge, match="the context holds 128"):
            engine.generate("hog", array("i", [500] * 128))
        os.kill(engine.stats().worker_pid or 0, signal.SIGKILL)
        wait_until(lambda: engine.stats().worker_pid is None)
        with pytest.raises(TooLarge, match="the context holds 128"):
            engine.generate("hog", array("i", [500] * 128))
        engine.share(settings)
        assert begin("hog", 150).next_piece()


def test_a_conversation_beyond_the_quota_is_too_large_and_says_why(rationed: Engine, ask: Ask) -> None:
    conversation = rationed.conversation("hog", template="none")
    with pytest.raises(TooLarge, match=r"can hold 96 with its reply; .* give the guest a larger kv-quota$"):
        ask(conversation, "word " * 100, SHORT)
    with pytest.raises(TooLarge, match="the context holds 96"):
        rationed.generate("hog", array("i", [500] * 96))
    shifting = rationed.conversation("hog")
    for _ in range(3):
        assert ask(shifting, "word " * 20, SHORT).usage.prompt <= 96
