"""Replies to bare tokens in the worker: no conversation, no template, every token's bytes as they are.

A guest that sends its whole history with every prompt, as WasmEdge's do, looks stateless. Its sequences stay in the KV
cache after their reply, and its next prompt goes on from the one that begins most like it.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from promptd.engine.adapters import Adapters
from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.llama import Vocabulary
from promptd.engine.messages import RawEnd
from promptd.engine.options import Sampling
from promptd.engine.prompts import Prompt
from promptd.engine.sampling import Sampler
from promptd.engine.sequence import Sequence
from promptd.engine.transcript import common_prefix

KEPT_SEQUENCES = 8
"""Most idle sequences one guest keeps; those the KV cache had to evict do not count."""

WORTH_SHARING = 8
"""A prompt starts afresh where it has fewer tokens than this in common with every idle sequence."""


class RawGeneration(Generation):
    """One reply to bare tokens."""

    def __init__(
        self,
        call: int,
        sequence: Sequence,
        tokens: array[int],
        sampling: Sampling,
        sampler: Sampler,
        *,
        reverse_prompt: bytes,
        ahead: int | None,
        context: int,
        deadline: float | None,
    ) -> None:
        prompt = Prompt((), tokens, 0, 0, [])
        super().__init__(call, sequence, prompt, sampling, sampler, context=context, deadline=deadline)
        self._ignore_end = sampling.ignore_end
        self._reverse_prompt = reverse_prompt
        self._ahead = ahead
        self.taken = 0
        """Tokens that were taken of the reply."""
        self.paused = False
        self._tail = b""
        """The end of the reply in which the reverse prompt may have begun."""

    @property
    def is_ahead(self) -> bool:
        """Whether the reply should wait until more of it is taken."""
        return self._ahead is not None and self._generated - self.taken >= self._ahead

    def advance_raw(self, token: int, piece: bytes, *, is_end: bool) -> RawEnd | None:
        """Take the sampled `token`, which spells `piece`; return why the reply ends, if it does."""
        self._generated += 1
        self.sequence.tokens.append(token)
        if self._reverse_prompt:
            self._tail += piece
            if self._reverse_prompt in self._tail:
                return RawEnd.REVERSE_PROMPT
            self._tail = self._tail[-len(self._reverse_prompt) :]
        if is_end and not self._ignore_end:
            return RawEnd.END_OF_GENERATION
        if self._generated == self._max_tokens:
            return RawEnd.MAX_TOKENS
        if len(self.sequence.tokens) >= self._context:
            return RawEnd.CONTEXT_FULL
        return None


class RawSequences:
    """The replies to bare tokens that are being made, and the idle sequences of those before."""

    def __init__(self, kv: KVCache, vocabulary: Vocabulary) -> None:
        self._kv = kv
        self._vocabulary = vocabulary
        self._idle: dict[tuple[str, Adapters], OrderedDict[Sequence, None]] = {}
        self.running: dict[int, RawGeneration] = {}
        """By call, waiting and paused ones too."""

    def begin(self, guest: str, tokens: array[int], adapters: Adapters = ()) -> Sequence:
        """Return a sequence for a prompt of `guest`, with what the cache holds of the prompt's beginning."""
        self._forget_evicted()
        idle = self._idle.get((guest, adapters), OrderedDict())
        best, shared = None, WORTH_SHARING - 1
        for sequence in idle:
            length = common_prefix(sequence.tokens[: sequence.computed], tokens)
            if length > shared:
                best, shared = sequence, length
        if best is None:
            return Sequence(guest, adapters=adapters)
        if shared == best.computed:
            del idle[best]
            return best
        idle.move_to_end(best)
        copy = Sequence(guest, best.tokens[:], adapters)
        self._kv.share(best, copy)
        self._kv.truncate(copy, shared)
        return copy

    def advance(self, generation: RawGeneration, token: int) -> tuple[bytes, RawEnd | None]:
        """Return the bytes of a sampled token, and why the reply ends if it does."""
        piece = self._vocabulary.spelling(token)
        return piece, generation.advance_raw(token, piece, is_end=self._vocabulary.is_end(token))

    def end(self, generation: RawGeneration) -> None:
        """Take out an ended reply, which the scheduler has let go of; its sequence stays idle."""
        del self.running[generation.call]
        self.keep(generation.sequence)

    def keep(self, sequence: Sequence) -> None:
        """Let a sequence that is not used now stay, for as long as the cache has room for it."""
        del sequence.tokens[sequence.computed :]
        if sequence.slot is not None:
            idle = self._idle.setdefault((sequence.guest, sequence.adapters), OrderedDict())
            idle[sequence] = None
            while len(idle) > KEPT_SEQUENCES:
                self._kv.release(idle.popitem(last=False)[0])

    def _forget_evicted(self) -> None:
        for salt in list(self._idle):
            idle = self._idle[salt]
            for sequence in [sequence for sequence in idle if sequence.slot is None]:
                del idle[sequence]
            if not idle:
                del self._idle[salt]
