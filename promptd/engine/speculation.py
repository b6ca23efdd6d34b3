"""Speculation: which tokens a step verifies beside those it decodes, guessed from what was said earlier.

A reply's own sampler draws from the logits at each guessed token as if the token had been decoded alone; the guess
holds as long as the draw agrees, so what is drawn is as without guesses. A guessed token costs what any token adds to a
step, which was measured, and saves a step as often as guesses for this reply held lately; where that does not pay,
nothing is guessed. Wide batches leave no room: there each token costs about as much as it saves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace
from typing import Literal

from promptd.engine import llama
from promptd.engine.draft_model import SEQUENCES, DraftModel
from promptd.engine.generation import Generation
from promptd.engine.guess_cost import GuessCost
from promptd.engine.kvcache import KVCache
from promptd.engine.prompt_lookup import PromptLookup
from promptd.engine.scheduler import Scheduler, Work

MAX_DRAFT = 16
"""Most tokens guessed for one reply in one step."""
MARGIN = 1.5
"""A guessed token has to promise so many times what it costs: the prediction is not exact, and sampling costs too."""
UNKNOWN_RATE = 0.5
"""How often the guesses for a reply hold before any was made."""
UNKNOWN_DRAFT_RATE = 0.8
"""The same for those of a draft model, which has to be asked for it to be known."""
MAX_UNUSED = 64
"""Steps after which a draft model that did not pay is asked again."""
RATE_SMOOTHING = 0.15
COST_SMOOTHING = 0.2
"""The weight of the last observation in a mean."""
PROMISING_RATE = 0.8
HOPE_DECAY = 0.998
"""How much less guesses are hoped to cost than was measured, with each step in which that forbids promising ones: so it
is measured again one day.
"""
PROBE_TOKENS = 2
PROBE_STEP = 8
"""Most tokens guessed in a step that is to show what they cost, and where few replies are made, most of the step with
them. One token more costs a step of one nearly as much again, and each of seven more half of that: the first says
little about the others.
"""
GROWTH = 2
"""A step has at most so many times the guesses of the last one: what a few were measured to cost says little, where
steps take now a bit more and now a bit less, and dozens of wrong ones would hold up all replies.
"""
LOOK_EVERY = 8
"""Where no guess could pay, however often guesses held, one is looked for only in one of so many steps."""


@dataclass(slots=True)
class _Guesses:
    """What is guessed for one reply, and how often that was right."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    rate: float = UNKNOWN_RATE
    next: tuple[int, ...] = ()
    """What was guessed to follow the last token, whether it is verified in this step or not."""
    drafted: bool = False
    """Whether it was the draft model that guessed."""
    draft_rate: float = UNKNOWN_DRAFT_RATE
    """How often the draft model's guesses hold."""
    unused: int = 0
    """Steps since the draft model was last asked."""

    def learn(self, held: int, failed: bool) -> None:
        """Take in that so many guesses held, and whether the one after them did not."""
        rate = self.draft_rate if self.drafted else self.rate
        rate = 1.0 - (1.0 - rate) * (1.0 - RATE_SMOOTHING) ** held
        if failed:
            rate -= RATE_SMOOTHING * rate
        if self.drafted:
            self.draft_rate = rate
        else:
            self.rate = rate


class Speculation:
    """Adds guesses to steps, and learns from what came of them."""

    def __init__(
        self,
        kv: KVCache,
        scheduler: Scheduler,
        *,
        step_tokens: int,
        outputs: int,
        mode: Literal["auto", "on", "off"],
        draft: DraftModel | None = None,
    ) -> None:
        """A step has at most `step_tokens` tokens, and logits of `outputs` of them."""
        self._draft = draft
        self._draft_seconds: float | None = None
        """Mean seconds the draft model has taken for a token."""
        self._kv = kv
        self._scheduler = scheduler
        self._most = min(step_tokens, outputs)
        self._mode = mode if kv.divisible else "off"
        self._guesses: dict[Generation, _Guesses] = {}
        self._cost_alone, self._cost_together = GuessCost(), GuessCost()
        """For steps of one reply, and for steps of more."""
        self._since_look = 0
        """Steps since guesses were last looked for."""
        self.drafted = 0
        """Guessed tokens that were verified."""
        self.accepted = 0
        """Those that held."""

    def set_threads(self, threads: int) -> None:
        """Let the draft model compute by so many threads."""
        if self._draft is not None:
            self._draft.set_threads(threads)

    def extend(self, step: list[Work]) -> list[Work]:
        """Return the step with guesses, for which cells are taken; one without tokens, or with prefill, has none."""
        if not step or self._mode == "off" or not all(work.output and work.count == 1 for work in step):
            return step
        width = len(step)
        if self._mode == "auto" and not self._scheduler.has_decoded(width):  # whether guesses pay would be unknown
            return step
        self._since_look += 1
        if self._since_look < LOOK_EVERY and not self._length_paid(1.0, width):
            return step
        steps, self._since_look = self._since_look, 0
        left = self._most - width
        guesses = {work.generation: self._guess(work.generation) for work in step}
        running = set(self._scheduler.running)
        self._guesses = {reply: guess for reply, guess in self._guesses.items() if reply in running} | guesses
        wanted = [self._length(guess, guess.rate, width) for guess in guesses.values()]
        if self._draft is not None and width <= SEQUENCES:
            for index, (generation, guess) in enumerate(guesses.items()):
                wanted[index] = wanted[index] or self._ask_draft(self._draft, generation, guess, width)
        cost = self._cost(width)
        if not any(wanted):
            if cost.last and any(guess.next and guess.rate > PROMISING_RATE for guess in guesses.values()):
                cost.hope *= HOPE_DECAY**steps
            return step
        if self._mode == "auto" and (not cost.last or cost.hope < 1.0):
            left = min(left, max(PROBE_TOKENS, PROBE_STEP - width))
            wanted = [left if length else 0 for length in wanted]
        elif self._mode == "auto":
            left = min(left, GROWTH * cost.last)
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
            self._cost(len(step)).observe(sum(len(work.draft) for work in step), seconds - base)

    def verified(self, work: Work, sampled: Tokens[int]) -> None:
        """Take in what was drawn in place of a reply's guesses, and free the cells of those that did not hold."""
        if guess := self._guesses.get(work.generation):
            held = _agreeing(guess.next, sampled)
            guess.learn(held, failed=held < min(len(guess.next), len(sampled)))
            guess.next = ()
        if work.draft:
            held = _agreeing(work.draft, sampled)
            self.accepted += held
            sequence = work.generation.sequence
            self._kv.truncate(sequence, min(len(sequence.tokens), work.start + work.count + held))

    def _guess(self, generation: Generation) -> _Guesses:
        guess = self._guesses.get(generation) or _Guesses()
        guess.drafted = False
        guess.next = guess.lookup.draft(generation.sequence.tokens, MAX_DRAFT)
        return guess

    def _ask_draft(self, draft: DraftModel, generation: Generation, guess: _Guesses, width: int) -> int:
        """Let the draft model guess for a reply, if that is expected to pay; return how many tokens it has guessed."""
        guess.unused += 1
        most = min(self._length_paid(guess.draft_rate, width, self._draft_seconds or 0.0), generation.room - 1)
        if guess.unused > MAX_UNUSED:
            most = max(most, min(2, generation.room - 1))
        if most <= 0:
            return 0
        guess.unused = 0
        began = time.monotonic()
        try:
            guessed = draft.draft(generation, generation.sequence.tokens, most)
        except llama.LlamaError:
            return 0
        if guessed:
            seconds = (time.monotonic() - began) / len(guessed)
            self._draft_seconds = _mean(self._draft_seconds, seconds)
            guess.next, guess.drafted = guessed, True
        return len(guessed)

    def _length(self, guess: _Guesses, rate: float, width: int) -> int:
        """Return how many of the tokens guessed without a model are to be verified."""
        return min(len(guess.next), self._length_paid(rate, width)) if guess.next else 0

    def _length_paid(self, rate: float, width: int, guess_seconds: float = 0.0) -> int:
        """Return how many guessed tokens in a row pay in a step of `width` replies, when one holds at such a `rate` and
        takes so many seconds to guess.
        """
        if self._mode == "on":
            return MAX_DRAFT
        base, token = self._scheduler.decode_seconds(width), self._scheduler.prefill_seconds
        cost = self._cost(width)
        if base is None or not (cost.last or token):
            return 0
        chance, held, best, most_gained = 1.0, 0.0, 0, 0.0
        for length in range(1, MAX_DRAFT + 1):
            chance *= rate
            held += chance
            seconds = cost.seconds(length) if cost.last else length * (token or 0.0)
            gained = held * base / width - MARGIN * (seconds + length * guess_seconds)
            if gained > most_gained:
                best, most_gained = length, gained
        return best

    def _cost(self, width: int) -> GuessCost:
        return self._cost_alone if width == 1 else self._cost_together


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + COST_SMOOTHING * (value - mean)


def _agreeing(guessed: Tokens[int], sampled: Tokens[int]) -> int:
    """Return how many tokens of a guess were drawn."""
    held = 0
    for guess, token in zip(guessed, sampled, strict=False):
        if guess != token:
            break
        held += 1
    return held
