"""Continuous batching: which tokens of which sequences the next step decodes.

The policy, wherever there is too little for all: the guest that was given least goes first (fairness.py), and of
its turns the oldest. Waiting turns are admitted while their prompts fit the KV cache; a guest that has no turn running
may take the place of one of a guest that has several. Every sequence that is decoding gets its one token; what is left
of the step goes to prefill, in chunks, and while others decode only so much of it that they hardly stall
(prefill_share.py). A turn whose prompt begins like one that is being prefilled waits for that one's cells and shares
them. When cells run out, idle sequences are evicted, then the youngest running turn is preempted: it waits before its
guest's others, and is restored or prefilled again, with what it has generated. Where a guest's quota of the cache is
short, all this concerns that guest alone. Sequences with different LoRA adapters take turns (adapters.py).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from heapq import heapify, heappop, heapreplace

from promptd.engine.adapters import AdapterTurns
from promptd.engine.fairness import FairShare
from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.prefill_share import PrefillShare
from promptd.engine.sequence import SequenceState
from promptd.engine.throughput import Throughput
from promptd.engine.transcript import common_prefix
from promptd.errors import Busy


@dataclass(frozen=True, slots=True)
class Work:
    """`count` tokens from position `start` of a sequence; after the last of them a token is sampled if `output`.

    `draft` are guesses at the tokens to follow them, of which as many hold as are sampled.
    """

    generation: Generation
    start: int
    count: int
    output: bool
    draft: tuple[int, ...] = ()


class Admission(Enum):
    """What came of a waiting turn's wish to run."""

    ADMITTED = "admitted"
    NO_ROOM = "no room"
    OVER_QUOTA = "over quota"
    """Other turns of its guest have to end first."""


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

    def __init__(
        self, kv: KVCache, step_tokens: int, max_waiting: int, weights: Mapping[str, float] | None = None
    ) -> None:
        self._kv = kv
        self._fair = FairShare(weights or {})
        self._prefill = PrefillShare(step_tokens)
        self._adapter_turns = AdapterTurns()
        self._step_tokens = step_tokens
        self._max_waiting = max_waiting
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.counters = Counters()
        self.throughput = Throughput()

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Serve guests by other weights from now on."""
        self._fair.weights = weights

    def submit(self, generation: Generation) -> None:
        """Queue a turn; raises Busy when the queue is full."""
        self._admit_waiting()
        if len(self.waiting) >= self._max_waiting:
            raise Busy(
                f"{len(self.waiting)} prompts are already waiting for this model, which is the limit;"
                f" this one would be number {len(self.waiting) + 1}; try again later"
            )
        self._fair.begin(generation.sequence.guest)
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
        self._fair.end(generation.sequence.guest)
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
        turn = self.running
        if any(generation.sequence.adapters for generation in turn):
            adapters = self._adapter_turns.next(generation.sequence.adapters for generation in turn)
            turn = [generation for generation in turn if generation.sequence.adapters == adapters]
        decoding = [generation for generation in turn if not _is_prefill(generation)]
        prefilling = [generation for generation in turn if _is_prefill(generation) and not generation.leader]
        step: list[Work] = []
        self._serve(decoding, self._step_tokens, step)
        served = len(step)
        if prefilling:
            left = self._prefill.tokens(served, len(_guests(decoding)), len(_guests(prefilling)))
            self._serve(prefilling, left, step)
        if step:
            self.counters.steps += 1
            self.counters.widths[len(step)] += 1
        if served < len(decoding):
            self._rotate(step)
        return step

    def measured(self, step: list[Work], seconds: float) -> None:
        """Note how long a step has taken."""
        decoding = sum(work.output and work.count == 1 for work in step)
        self._prefill.observe(decoding, sum(work.count for work in step) - decoding, seconds)

    def sampled(self, generation: Generation) -> None:
        """Note that a token was sampled for `generation`, which decodes from now on."""
        generation.sequence.state = SequenceState.DECODE
        self.counters.generated_tokens += 1
        self.throughput.add(time.monotonic())

    def charge(self, generation: Generation, tokens: int) -> None:
        """Count tokens that are decoded for a turn's guest beyond those scheduled."""
        self._fair.charge(generation.sequence.guest, tokens)

    def decode_seconds(self, width: int) -> float | None:
        """Return the mean seconds of a step that decodes one token of each of `width` turns; None if none was made."""
        return self._prefill.decode_seconds(width)

    def has_decoded(self, width: int) -> bool:
        """Return whether a step was measured that decodes one token of each of `width` turns, and nothing else."""
        return self._prefill.knows(width)

    @property
    def spare_tokens(self) -> int | None:
        """Most tokens that may be decoded between two steps, as one guest's prefill; None where no reply is made."""
        if not self.running:
            return None
        return self._prefill.tokens(len(self.running), len(_guests(self.running)), 1)

    @property
    def prefill_seconds(self) -> float | None:
        """Mean seconds a prompt token has taken; None until that was measured."""
        return self._prefill.token_seconds

    def _serve(self, turns: list[Generation], budget: int, step: list[Work]) -> None:
        """Give `budget` tokens to running turns: always to the guest that was given least, and to its first turn.

        Of guests on one level the one with fewer tokens to go is first.
        """
        queues: dict[str, deque[Generation]] = {}
        for generation in turns:
            queues.setdefault(generation.sequence.guest, deque()).append(generation)
        order = [(self._fair.served(guest), queue[0].sequence.pending, guest) for guest, queue in queues.items()]
        heapify(order)
        while order and budget:
            _, _, guest = order[0]
            generation = queues[guest].popleft()
            if generation in self.running:  # not preempted for one before it
                count = self._take(generation, budget, step)
                self._fair.charge(guest, count)
                budget -= count
            if queues[guest]:
                heapreplace(order, (self._fair.served(guest), queues[guest][0].sequence.pending, guest))
            else:
                heappop(order)

    def _take(self, generation: Generation, budget: int, step: list[Work]) -> int:
        """Give a running turn its share of the step; return how many tokens that is."""
        sequence = generation.sequence
        count = min(sequence.pending, budget)
        if count == 0:
            return 0
        if not self._make_room(generation, count, step):
            count = min(count, self._kv.room(sequence.guest))
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
        """Free cells for `generation`, at the cost of younger turns that have no part in the step yet: its guest's
        own where its quota is what is short.
        """
        placed = {work.generation for work in step}
        guest = generation.sequence.guest
        while not self._kv.make_room(cells, guest):
            younger = [other for other in self.running if other.call > generation.call and other not in placed]
            if not self._kv.allows(guest, cells):
                younger = [other for other in younger if other.sequence.guest == guest]
            if not younger:
                return False
            self._preempt(max(younger, key=lambda other: other.call))
        return True

    def _preempt(self, generation: Generation) -> None:
        """Take a running turn's cells and let it wait, before all others."""
        self.running.remove(generation)
        for follower in self._followers(generation):
            self._take_over(follower)
        generation.leader = None
        self._kv.spill(generation.sequence)
        generation.sequence.state = SequenceState.WAITING
        self.waiting.appendleft(generation)
        self.counters.preemptions += 1

    def _admit_waiting(self) -> None:
        """Make waiting turns running ones, until one does not get what it needs: it stays the next.

        Only a guest that waits for its own quota holds up nobody else.
        """
        if not self.waiting:
            return
        full: set[str] = set()
        while guests := {guest: first for guest, first in _guests(self.waiting).items() if guest not in full}:
            guest = min(guests, key=self._fair.served)
            while (admission := self._admit(guests[guest])) is Admission.NO_ROOM:
                if not self._make_way(guest):
                    return
            if admission is Admission.OVER_QUOTA:
                full.add(guest)

    def _make_way(self, guest: str) -> bool:
        """For a guest with no turn running, preempt the youngest of the guest that has most, if that is several."""
        turns = Counter(generation.sequence.guest for generation in self.running)
        if guest in turns or not turns:
            return False
        greedy, count = turns.most_common(1)[0]
        if count < 2:
            return False
        own = [generation for generation in self.running if generation.sequence.guest == greedy]
        self._preempt(max(own, key=lambda generation: generation.call))
        return True

    def _admit(self, generation: Generation) -> Admission:
        """Make a waiting turn a running one, if it gets a slot, and cells for its whole prompt."""
        sequence, kv = generation.sequence, self._kv
        if not kv.activate(sequence):
            return Admission.NO_ROOM if kv.allows_sequence(sequence.guest) else Admission.OVER_QUOTA
        generation.resumed = generation.cached is not None
        if not generation.resumed:
            tokens = generation.prompt.tokens
            known = common_prefix(sequence.tokens[: sequence.computed], tokens)
            kv.truncate(sequence, min(known, len(tokens) - 1))
            sequence.tokens = tokens[:]
        kv.wake(sequence)
        kv.join(sequence)
        generation.leader = kv.leader(sequence)
        promised = sum(_own(other) for other in self.running)
        needed = promised + _own(generation)
        own = [other for other in self.running if other.sequence.guest == sequence.guest]
        over = bool(own) and not kv.allows(sequence.guest, sum(map(_own, own)) + _own(generation))
        if over or (self.running and kv.free < needed and kv.free + kv.evictable < needed):
            kv.park(sequence)
            return Admission.OVER_QUOTA if over else Admission.NO_ROOM
        self._count_cached(generation, sequence.computed)
        kv.announce(sequence)
        sequence.state = SequenceState.PREFILL
        self.waiting.remove(generation)
        self.running.append(generation)
        return Admission.ADMITTED

    def _rotate(self, step: list[Work]) -> None:
        """If a full step left decoding turns out, put those it served behind them."""
        served = {work.generation for work in step}
        if any(generation not in served and not _is_prefill(generation) for generation in self.running):
            self.running.sort(key=lambda generation: generation in served)


def _guests(turns: Iterable[Generation]) -> dict[str, Generation]:
    """Return the first turn of each guest."""
    first: dict[str, Generation] = {}
    for generation in turns:
        first.setdefault(generation.sequence.guest, generation)
    return first


def _own(generation: Generation) -> int:
    """Return how many cells a turn still needs that no other turn is computing for it."""
    shared = generation.leader[1] - generation.sequence.computed if generation.leader else 0
    return generation.sequence.pending - shared


def _is_prefill(generation: Generation) -> bool:
    return generation.sequence.pending > 1
