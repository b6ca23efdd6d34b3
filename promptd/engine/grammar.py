"""Replies that keep to a grammar: JSON schemas become GBNF, hostile grammars are found out before they can do harm, and
a sampler draws only what the grammar allows.

llama.cpp parses a grammar recursively and without limits, and one of its checks takes exponential time. So each
grammar is first tried in a forked process with little time and memory; the worker takes what came through there.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType

from promptd.engine.llama import Context, LlamaError, Vocabulary
from promptd.engine.llama_grammar import Candidates, Grammar, schema_to_grammar
from promptd.engine.llama_samplers import SamplerChain
from promptd.errors import InvalidArgument, RuntimeFailure, TooLarge

MAX_GRAMMAR_BYTES = 64 * 1024
MAX_SCHEMA_BYTES = 64 * 1024
MAX_CONVERTED_BYTES = 1024 * 1024
"""What a schema may become: converters spell repetitions out."""

TRIAL_CPU_SECONDS = 1
TRIAL_MEMORY = 512 * 1024**2
"""What the trial of one grammar may take; a usual one takes milliseconds and a few megabytes."""

CONVERT_CPU_SECONDS = 1.0

SLOW_SECONDS = 0.25
"""A reply whose grammar takes this long for one token is ended: ambiguous grammars double that with every token."""

STUCK_CPU_SECONDS = 5.0
"""Processor time after which the worker is killed inside a grammar: nothing else gets it out of there."""

_CACHED = 64


def gbnf(grammar: str, json_schema: str) -> bytes | None:
    """Return the grammar a reply has to keep to, None where there is none; a schema goes before a grammar.

    Raises InvalidArgument and TooLarge.
    """
    if json_schema:
        return _converted(json_schema)
    if not grammar.strip():
        return None
    data = grammar.encode()
    if len(data) > MAX_GRAMMAR_BYTES:
        raise TooLarge(f"the grammar has {len(data)} bytes, more than the limit of {MAX_GRAMMAR_BYTES}")
    if b"\0" in data:
        raise InvalidArgument("the grammar holds a zero character")
    return data


@lru_cache(_CACHED)
def _converted(schema: str) -> bytes:
    if len(schema.encode()) > MAX_SCHEMA_BYTES:
        raise TooLarge(f"the JSON schema has more bytes than the limit of {MAX_SCHEMA_BYTES}")
    try:
        json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the JSON schema is not valid JSON: {error}") from error
    try:
        with _cpu_limit(CONVERT_CPU_SECONDS):
            data = schema_to_grammar(schema).encode()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidArgument(f"the JSON schema cannot be made a grammar: {reason}") from error
    if len(data) > MAX_CONVERTED_BYTES:
        raise TooLarge(
            f"the JSON schema becomes a grammar of {len(data)} bytes, over the limit of {MAX_CONVERTED_BYTES}"
        )
    return data


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
        began = time.monotonic()
        with _cpu_guard():
            token = self._choose(context, index)
            self._grammar.accept(token)
        self._chain.accept(token)
        if time.monotonic() - began > SLOW_SECONDS:
            raise TooLarge(f"the grammar is too ambiguous: it took more than {SLOW_SECONDS:g} s for one token")
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
        reason = _try(vocabulary, text)
        if len(_checked) >= _CACHED:
            del _checked[next(iter(_checked))]
        _checked[text] = reason
    if (refused := _checked[text]) is not None:
        raise InvalidArgument(f"the grammar is not valid: {refused}")


def _try(vocabulary: Vocabulary, text: bytes) -> str | None:
    """Parse `text` and ask for the first tokens in a process of its own; return why that failed, or None."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(_trial(vocabulary, text, write))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read(400).decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if status == 0:
        return None
    return said or "it takes too much time or memory"


def _trial(vocabulary: Vocabulary, text: bytes, write: int) -> int:
    """What the forked process does; return its exit status."""
    try:
        with open("/dev/null", "wb") as null:  # noqa: PTH123 - no more Python than needed after a fork
            os.dup2(null.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (TRIAL_CPU_SECONDS, TRIAL_CPU_SECONDS))
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + TRIAL_MEMORY,) * 2)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        candidates = Candidates(vocabulary.size)
        candidates.fill_equal()
        Grammar(vocabulary, text).mask(candidates)
        if candidates.any_left:
            return 0
        os.write(write, b"it allows no first token")
    except LlamaError as error:
        os.write(write, str(error).encode()[:400])
    except BaseException:
        return 2
    return 1


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no more Python than needed after a fork
        return int(file.read().split()[0]) * resource.getpagesize()


@contextmanager
def _cpu_guard() -> Iterator[None]:
    """End this process when the block takes STUCK_CPU_SECONDS of processor time."""
    signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Raise in the block, which is Python code, when it takes `seconds` of processor time."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s")

    previous = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
