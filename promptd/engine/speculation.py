"""Speculation: which tokens a step verifies beside those it decodes, guessed from what was said earlier.

A reply's own sampler draws from the logits at each guessed token as if the token had been decoded alone; the guess
holds as long as the draw agrees, so what is drawn is as without guesses. A guessed token costs what any token adds to a
step, which was measured, and saves a step as often as guesses for this reply held lately; where that does not pay,
nothing is guessed. Wide batches leave no room: there each token costs about as much as it saves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace
from typing import Literal

from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.prompt_lookup import PromptLookup
from promptd.engine.scheduler import Scheduler, Work

MAX_DRAFT = 16
"""Most tokens guessed for one reply in one step."""
MARGIN = 1.15
"""A guessed token has to promise so many times what it costs: the prediction is not exact, and sampling costs too."""
UNKNOWN_RATE = 0.5
"""How often the guesses for a reply hold before any was made."""
RATE_SMOOTHING = 0.15
COST_SMOOTHING = 0.2
"""The weight of the last observation in a mean."""
PROMISING_RATE = 0.8
COST_DECAY = 0.99
"""What the measured cost is multiplied by when it forbids promising guesses, so that it is measured again one day."""


@dataclass(slots=True)
class _Guesses:
    """What is guessed for one reply, and how often that was right."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    rate: float = UNKNOWN_RATE
    next: tuple[int, ...] = ()
    """What was guessed to follow the last token, whether it is verified in this step or not."""


class Speculation:
    """Adds guesses to steps, and learns from what came of them."""

    def __init__(
        self, kv: KVCache, scheduler: Scheduler, *, step_tokens: int, outputs: int, mode: Literal["auto", "on", "off"]
    ) -> None:
        """A step has at most `step_tokens` tokens, and logits of `outputs` of them."""
        self._kv = kv
        self._scheduler = scheduler
        self._most = min(step_tokens, outputs)
        self._mode = mode if kv.divisible else "off"
        self._guesses: dict[Generation, _Guesses] = {}
        self._token_seconds: float | None = None
        """Mean seconds a guessed token has added to a step."""
        self.drafted = 0
        """Guessed tokens that were verified."""
        self.accepted = 0
        """Those that held."""

    def extend(self, step: list[Work]) -> list[Work]:
        """Return the step with guesses, for which cells are taken; a step with prefill has none."""
        if self._mode == "off" or not all(work.output and work.count == 1 for work in step):
            return step
        width = len(step)
        left = self._most - width
        guesses = self._guesses = {work.generation: self._guess(work.generation) for work in step}
        wanted = [self._length(guess, width) for guess in guesses.values()]
        if not any(wanted):
            if self._token_seconds and any(guess.next and guess.rate > PROMISING_RATE for guess in guesses.values()):
                self._token_seconds *= COST_DECAY
            return step
        extended = []
        for work, guess, length in zip(step, guesses.values(), wanted, strict=True):
            sequence = work.generation.sequence
            draft = guess.next[: min(length, left, work.generation.room - 1)]
            if draft and self._kv.make_room(len(draft), sequence.guest):
                self._kv.extend(sequence, len(draft))
                self._scheduler.charge(work.generation, len(draft))
                self.drafted += len(draft)
                left -= len(draft)
                work = replace(work, draft=draft)
            extended.append(work)
        return extended

    def measured(self, step: list[Work], seconds: float) -> None:
        """Note how long a step with guesses has taken."""
        base = self._scheduler.decode_seconds(len(step))
        if base is not None:
            cost = max(0.0, seconds - base) / sum(len(work.draft) for work in step)
            known = self._token_seconds
            self._token_seconds = cost if known is None else known + COST_SMOOTHING * (cost - known)

    def verified(self, work: Work, sampled: Tokens[int]) -> None:
        """Take in what was drawn in place of a reply's guesses, and free the cells of those that did not hold."""
        if guess := self._guesses.get(work.generation):
            held = _agreeing(guess.next, sampled)
            for _ in range(held):
                guess.rate += RATE_SMOOTHING * (1.0 - guess.rate)
            if held < min(len(guess.next), len(sampled)):
                guess.rate -= RATE_SMOOTHING * guess.rate
            guess.next = ()
        if work.draft:
            held = _agreeing(work.draft, sampled)
            self.accepted += held
            sequence = work.generation.sequence
            self._kv.truncate(sequence, min(len(sequence.tokens), work.start + work.count + held))

    def _guess(self, generation: Generation) -> _Guesses:
        guess = self._guesses.get(generation) or _Guesses()
        guess.next = guess.lookup.draft(generation.sequence.tokens, MAX_DRAFT)
        return guess

    def _length(self, guess: _Guesses, width: int) -> int:
        """Return how many guessed tokens in a row pay in a step of `width` replies."""
        if not guess.next or self._mode == "on":
            return len(guess.next)
        base = self._scheduler.decode_seconds(width)
        cost = self._token_seconds if self._token_seconds is not None else self._scheduler.prefill_seconds
        if base is None or cost is None:
            return 0
        least = MARGIN * cost * width / base
        if least >= guess.rate:
            return 0
        return int(math.log(max(least, 1e-6)) / math.log(min(guess.rate, 0.999)))


def _agreeing(guessed: Tokens[int], sampled: Tokens[int]) -> int:
    """Return how many tokens of a guess were drawn."""
    held = 0
    for guess, token in zip(guessed, sampled, strict=False):
        if guess != token:
            break
        held += 1
    return held
