"""Continuous batching: which tokens of which sequences the next step decodes.

The policy: waiting turns are admitted in order while their prompts fit the KV cache; every sequence that is decoding
gets its one token; what is left of the step's budget goes to prefill, oldest turn first, in chunks. A turn whose
prompt begins like one that is being prefilled waits for that one's cells and shares them. When cells run out, idle
sequences are evicted, then the youngest running turn is preempted: it waits at the head of the queue and is
prefilled again, with what it has generated.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.sequence import SequenceState
from promptd.engine.transcript import common_prefix
from promptd.errors import Busy


@dataclass(frozen=True, slots=True)
class Work:
    """`count` tokens from position `start` of a sequence; after the last of them a token is sampled if `output`."""

    generation: Generation
    start: int
    count: int
    output: bool


@dataclass(slots=True)
class Counters:
    """What the steps have done."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    widths: Counter[int] = field(default_factory=Counter)
    turns: int = 0
    preemptions: int = 0


class Scheduler:
    """The queue of waiting turns and the set of running ones."""

    def __init__(self, kv: KVCache, step_tokens: int, max_waiting: int) -> None:
        self._kv = kv
        self._step_tokens = step_tokens
        self._max_waiting = max_waiting
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.counters = Counters()

    def submit(self, generation: Generation) -> None:
        """Queue a turn; raises Busy when the queue is full."""
        self._admit_waiting()
        if len(self.waiting) >= self._max_waiting:
            raise Busy(
                f"{len(self.waiting)} prompts are already waiting for this model, which is the limit; try again later"
            )
        generation.sequence.state = SequenceState.WAITING
        self.waiting.append(generation)

    def remove(self, generation: Generation) -> None:
        """Take an ended, failed or cancelled turn out; its sequence is idle."""
        if generation in self.running:
            self.running.remove(generation)
        else:
            self.waiting.remove(generation)
        for follower in self._followers(generation):
            self._take_over(follower)
        generation.sequence.state = SequenceState.IDLE
        self._kv.park(generation.sequence)

    def expired(self, now: float) -> list[Generation]:
        """Return the turns whose deadline has passed."""
        return [
            generation
            for generation in (*self.running, *self.waiting)
            if generation.deadline is not None and now >= generation.deadline
        ]

    def schedule(self) -> list[Work]:
        """Choose the next step's work and take the cells for it; empty when there is nothing to do."""
        self._admit_waiting()
        for generation in self.running:
            self._follow(generation)
        step: list[Work] = []
        budget = self._step_tokens
        for generation in sorted(self.running, key=_is_prefill):
            if generation in self.running:  # not preempted for one before it
                budget -= self._take(generation, budget, step)
        if step:
            self.counters.steps += 1
            self.counters.widths[len(step)] += 1
        if budget == 0:
            self._rotate(step)
        return step

    def sampled(self, generation: Generation) -> None:
        """Note that a token was sampled for `generation`, which decodes from now on."""
        generation.sequence.state = SequenceState.DECODE
        self.counters.generated_tokens += 1

    def _take(self, generation: Generation, budget: int, step: list[Work]) -> int:
        """Give a running turn its share of the step; return how many tokens that is."""
        sequence = generation.sequence
        if generation.leader is not None:
            return 0
        count = min(sequence.pending, budget)
        if count == 0:
            return 0
        if not self._make_room(generation, count, step):
            count = min(count, self._kv.free)
            if count == 0:
                self._preempt(generation)
                return 0
        step.append(Work(generation, sequence.computed, count, output=count == sequence.pending))
        self._kv.extend(sequence, count)
        if sequence.state is SequenceState.PREFILL:
            self.counters.prompt_tokens += count
        return count

    def _follow(self, generation: Generation) -> None:
        """Let a turn go on whose leader has computed what they share, unless there is another to wait for."""
        while generation.leader is not None:
            leader, shared = generation.leader
            if leader.state is SequenceState.PREFILL and leader.computed < shared:
                return
            self._take_over(generation)
            generation.leader = self._kv.leader(generation.sequence)

    def _followers(self, generation: Generation) -> list[Generation]:
        return [other for other in self.running if other.leader and other.leader[0] is generation.sequence]

    def _take_over(self, follower: Generation) -> None:
        """Give a turn what the one it waits for has computed for it, and let it wait no longer."""
        if follower.leader is not None:
            before = follower.sequence.computed
            self._kv.follow(follower.sequence, *follower.leader)
            self._count_cached(follower, follower.sequence.computed - before)
            follower.leader = None

    def _count_cached(self, generation: Generation, tokens: int) -> None:
        """Note prompt tokens that were in the cache when the turn began."""
        if not generation.resumed:
            generation.cached = (generation.cached or 0) + tokens
            self.counters.cached_tokens += tokens

    def _make_room(self, generation: Generation, cells: int, step: list[Work]) -> bool:
        """Free cells for `generation`, at the cost of younger turns that have no part in the step yet."""
        placed = {work.generation for work in step}
        while not self._kv.make_room(cells):
            younger = [other for other in self.running if other.call > generation.call and other not in placed]
            if not younger:
                return False
            self._preempt(max(younger, key=lambda other: other.call))
        return True

    def _preempt(self, generation: Generation) -> None:
        """Take a running turn's cells and let it wait, before all others."""
        self.running.remove(generation)
        for follower in self._followers(generation):
            self._take_over(follower)
        self._kv.release(generation.sequence)
        generation.sequence.state = SequenceState.WAITING
        self.waiting.appendleft(generation)
        self.counters.preemptions += 1

    def _admit_waiting(self) -> None:
        while self.waiting and self._admit(self.waiting[0]):
            pass

    def _admit(self, generation: Generation) -> bool:
        """Make the first waiting turn a running one, if it gets a slot, and cells for its whole prompt."""
        sequence, kv = generation.sequence, self._kv
        if not kv.activate(sequence):
            return False
        generation.resumed = generation.cached is not None
        if not generation.resumed:
            tokens = generation.prompt.tokens
            known = common_prefix(sequence.tokens[: sequence.computed], tokens)
            kv.truncate(sequence, min(known, len(tokens) - 1))
            sequence.tokens = tokens[:]
        kv.join(sequence)
        generation.leader = kv.leader(sequence)
        promised = sum(_own(other) for other in self.running)
        needed = promised + _own(generation)
        if self.running and kv.free < needed and kv.free + kv.evictable < needed:
            kv.park(sequence)
            return False
        self._count_cached(generation, sequence.computed)
        kv.announce(sequence)
        sequence.state = SequenceState.PREFILL
        self.waiting.popleft()
        self.running.append(generation)
        return True

    def _rotate(self, step: list[Work]) -> None:
        """If a full step left decoding turns out, put those it served behind them."""
        served = {work.generation for work in step}
        if any(generation not in served and not _is_prefill(generation) for generation in self.running):
            self.running.sort(key=lambda generation: generation in served)


def _own(generation: Generation) -> int:
    """Return how many cells a turn still needs that no other turn is computing for it."""
    shared = generation.leader[1] - generation.sequence.computed if generation.leader else 0
    return generation.sequence.pending - shared


def _is_prefill(generation: Generation) -> bool:
    return generation.sequence.pending > 1
