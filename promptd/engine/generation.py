"""One reply being made: its prompt, its sampler, its text so far, and when it ends."""

from __future__ import annotations

from collections import deque

from promptd.chat import StopReason, TokenLogprob, Usage
from promptd.engine.options import Sampling
from promptd.engine.prompts import Prompt
from promptd.engine.sampling import Sampler
from promptd.engine.sequence import Sequence
from promptd.engine.textstream import TextStream
from promptd.engine.transcript import Turn


class Generation:
    """A turn from its acceptance to its end. Its tokens are appended to the sequence's."""

    def __init__(
        self,
        call: int,
        sequence: Sequence,
        prompt: Prompt,
        sampling: Sampling,
        sampler: Sampler,
        *,
        context: int,
        deadline: float | None,
    ) -> None:
        self.call = call
        self.sequence = sequence
        self.prompt = prompt
        self.sampler = sampler
        self.deadline = deadline
        self.cached: int | None = None
        """Prompt tokens that were in the KV cache; None until the turn is first scheduled."""
        self.resumed = False
        """Whether the turn was scheduled before, and preempted."""
        self.leader: tuple[Sequence, int] | None = None
        """A sequence that is computing the first tokens of this one's prompt, and how many."""
        self._stream = TextStream(sampling.stop)
        self._max_tokens = sampling.max_tokens
        self._context = context
        self._generated = 0
        self.logprobs = sampling.logprobs
        """How many of the likeliest tokens are to be told for each token; None tells nothing."""
        self._scored: deque[TokenLogprob] = deque()
        self._told = 0
        self.followed = False
        """Whether somebody wants the text as it is made."""
        self._untold: list[str] = []

    def tell(self, text: str) -> str:
        """Take text that the reply has gained; return what is to be told of it now."""
        if not self.followed:
            self._untold.append(text)
            return ""
        return text

    def follow(self) -> str:
        """Let all text be told at once from now on; return what was not told yet."""
        self.followed = True
        text = "".join(self._untold)
        self._untold.clear()
        return text

    def advance(self, token: int, piece: bytes, *, is_end: bool) -> tuple[str, StopReason | None]:
        """Take the sampled `token`; return the text it adds, and why the reply ends if it does."""
        self._generated += 1
        if is_end:
            return self._stream.finish(), StopReason.END_OF_TURN
        self.sequence.tokens.append(token)
        text = self._stream.feed(piece)
        if self._stream.stopped:
            return text, StopReason.STOP_SEQUENCE
        if self._generated == self._max_tokens:
            return text + self._stream.finish(), StopReason.MAX_TOKENS
        if len(self.sequence.tokens) >= self._context:
            return text + self._stream.finish(), StopReason.CONTEXT_FULL
        return text, None

    def limit(self, context: int) -> bool:
        """Let prompt and reply have at most `context` tokens; false when they have as many already."""
        self._context = min(self._context, context)
        return len(self.sequence.tokens) < self._context

    @property
    def room(self) -> int:
        """How many tokens the reply can still have."""
        left = self._context - len(self.sequence.tokens)
        return left if self._max_tokens is None else min(left, self._max_tokens - self._generated)

    def score(self, logprob: TokenLogprob) -> None:
        """Take what is to be told of the token that `advance` is given next."""
        self._scored.append(logprob)

    def scored(self, text: str, reason: StopReason | None) -> tuple[TokenLogprob, ...]:
        """Return what is to be told of the tokens that `advance` has just given `text` of, and not of the end token."""
        if not text and reason is None:
            return ()
        if reason in (None, StopReason.STOP_SEQUENCE):
            due = self._stream.tokens_given(self._generated)
        else:
            due = self._generated - (reason is StopReason.END_OF_TURN)
        told = tuple(self._scored.popleft() for _ in range(due - self._told))
        self._told += len(told)
        return told

    @property
    def usage(self) -> Usage:
        """What the reply has cost so far."""
        return Usage(prompt=len(self.prompt.tokens), cached=self.cached or 0, generated=self._generated)

    def turn(self) -> Turn:
        """Return the turn as the conversation is to remember it: tokens of a stop string are not part of it."""
        prompt = len(self.prompt.tokens)
        reply, exact = self._stream.tokens_within(len(self.sequence.tokens) - prompt)
        tokens = self.sequence.tokens[self.prompt.kept : prompt + reply].tobytes()
        return Turn(self.prompt.messages, self._stream.text, self.prompt.kept, tokens, exact)
