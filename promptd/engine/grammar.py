"""Replies that keep to a grammar: JSON schemas become GBNF, hostile grammars are found out before they can do harm, and
a sampler draws only what the grammar allows.

llama.cpp parses a grammar recursively and without limits, and one of its checks takes exponential time; a short schema
can become gigabytes of GBNF. So both are first tried in a forked process with little time and memory (confined.py); the
worker takes what came through there.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from promptd.engine.confined import Refused, confined
from promptd.engine.llama import Context, LlamaError, Vocabulary
from promptd.engine.llama_grammar import Candidates, Grammar
from promptd.engine.llama_samplers import SamplerChain
from promptd.engine.llama_schema import schema_to_grammar
from promptd.errors import InvalidArgument, PromptdError, RuntimeFailure, TooLarge

MAX_GRAMMAR_BYTES = 64 * 1024
MAX_SCHEMA_BYTES = 64 * 1024
MAX_CONVERTED_BYTES = 1024 * 1024
"""What a schema may become: converters spell repetitions out."""

SLOW_SECONDS = 0.25
"""A reply whose grammar takes so much processor time for one token is ended: ambiguity doubles it with each token."""

STUCK_CPU_SECONDS = 5.0
"""Processor time after which the worker is killed inside a grammar: nothing else gets it out of there."""

_CACHED = 64


def gbnf(grammar: str, json_schema: str) -> bytes | None:
    """Return the grammar a reply has to keep to, None where there is none; a schema goes before a grammar.

    Raises InvalidArgument and TooLarge.
    """
    if json_schema:
        converted = _converted(json_schema)
        if isinstance(converted, PromptdError):
            raise converted.with_traceback(None)
        return converted
    if not grammar.strip():
        return None
    data = grammar.encode()
    if len(data) > MAX_GRAMMAR_BYTES:
        raise TooLarge(f"the grammar has {len(data)} bytes, more than the limit of {MAX_GRAMMAR_BYTES}")
    if b"\0" in data:
        raise InvalidArgument("the grammar holds a zero character")
    return data


@lru_cache(_CACHED)
def _converted(schema: str) -> bytes | PromptdError:
    """Return the grammar, or why there is none: a schema that was refused is not tried again either."""
    if len(schema.encode()) > MAX_SCHEMA_BYTES:
        return TooLarge(f"the JSON schema has more bytes than the limit of {MAX_SCHEMA_BYTES}")
    try:
        json.loads(schema)
    except (ValueError, RecursionError) as error:
        return InvalidArgument(f"the JSON schema is not valid JSON: {error}")
    try:
        return confined(lambda: schema_to_grammar(schema).encode(), MAX_CONVERTED_BYTES)
    except Refused as error:
        return InvalidArgument(f"the JSON schema cannot be made a grammar: {error}")


class GrammarSampler:
    """Draws tokens as `chain` does, among those the grammar allows; keeps the grammar's state for one reply.

    As llama.cpp's common_sampler_sample: only a token the grammar refuses costs a pass over the whole vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, chain: SamplerChain, text: bytes, candidates: Candidates) -> None:
        """Raises InvalidArgument for text that is no grammar, TooLarge for one that takes too much."""
        _check(vocabulary, text)
        self._vocabulary = vocabulary
        self._chain = chain
        self._candidates = candidates
        self._grammar = Grammar(vocabulary, text)

    def accept(self, token: int) -> None:
        """Tell the chain of a token that was not sampled by it."""
        self._chain.accept(token)

    def sample(self, context: Context, index: int) -> int:
        """Choose the token that follows batch index `index` of the last step, and accept it.

        Raises RuntimeFailure when the grammar allows none, TooLarge when it takes too long.
        """
        began = time.thread_time()
        with _cpu_guard():
            token = self._choose(context, index)
            self._grammar.accept(token)
        self._chain.accept(token)
        if time.thread_time() - began > SLOW_SECONDS:
            raise TooLarge(f"the grammar is too ambiguous: one token took it more than {SLOW_SECONDS:g} s")
        return token

    def _choose(self, context: Context, index: int) -> int:
        self._candidates.fill(context, index)
        token = self._candidates.apply(self._chain)
        if self._grammar.allows(token):
            return token
        self._candidates.fill(context, index)
        self._grammar.mask(self._candidates)
        if self._candidates.any_left:
            token = self._candidates.apply(self._chain)
            if self._grammar.allows(token):
                return token
        end = self._vocabulary.eos
        if end >= 0 and self._grammar.allows(end):
            return end
        raise RuntimeFailure("the grammar allows no further token")


_checked: dict[bytes, str | None] = {}
"""Grammars tried before, and why they were refused."""


def _check(vocabulary: Vocabulary, text: bytes) -> None:
    if text not in _checked:
        reason = None
        try:
            confined(lambda: _try(vocabulary, text), 0)
        except Refused as error:
            reason = str(error)
        if len(_checked) >= _CACHED:
            del _checked[next(iter(_checked))]
        _checked[text] = reason
    if (refused := _checked[text]) is not None:
        raise InvalidArgument(f"the grammar is not valid: {refused}")


def _try(vocabulary: Vocabulary, text: bytes) -> bytes:
    """Parse `text` and ask for the first tokens."""
    candidates = Candidates(vocabulary.size)
    candidates.fill_equal()
    Grammar(vocabulary, text).mask(candidates)
    if not candidates.any_left:
        raise LlamaError("it allows no first token")
    return b""


@contextmanager
def _cpu_guard() -> Iterator[None]:
    """End this process when the block takes STUCK_CPU_SECONDS of processor time."""
    signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
