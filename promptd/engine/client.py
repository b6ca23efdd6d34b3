"""The engine in the parent process: conversations with one model, whose worker may die without taking a
conversation along.

Every conversation's transcript is kept here as well as in the worker. When the worker dies, the calls in flight
fail, the next call starts a new worker, and each conversation is given to it with its transcript at its next turn.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from promptd.chat import Message, Tool
from promptd.config import EngineSettings
from promptd.engine.adapters import Adapters
from promptd.engine.conversation import Conversation
from promptd.engine.crashes import Crashes
from promptd.engine.kv_size import ModelShape
from promptd.engine.link import Link
from promptd.engine.memory import MemoryBudget
from promptd.engine.messages import (
    MAX_EMBED_TOKENS,
    MAX_TOKEN_CHARACTERS,
    Accepted,
    Cancel,
    Command,
    Count,
    Counted,
    Embed,
    Embedded,
    Event,
    Failed,
    Generate,
    LoadAdapters,
    RawEnded,
    ReadStats,
    Share,
    Start,
    StatsRead,
    Take,
    Tokenize,
    Tokenized,
)
from promptd.engine.options import Sampling
from promptd.engine.rawreply import RawReply
from promptd.engine.statistics import EngineInfo, EngineStats
from promptd.engine.supervisor import Notice, Supervisor
from promptd.engine.transcript import TOKEN_CODE, Transcript
from promptd.errors import BY_NAME, PromptdError, RuntimeFailure, TooLarge

MAX_COUNT_CHARACTERS = 1024**2
"""The worker tokenises some megabytes a second, and nobody's reply goes on meanwhile."""

EMBED_AT_ONCE = 64
"""Texts whose embeddings one call asks the worker for at once; its queue is for all calls."""

_DEFAULTS = EngineSettings()

_DEFAULT_SAMPLING = Sampling()


class Engine:
    """One GGUF model in one worker process. All methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        settings: EngineSettings = _DEFAULTS,
        *,
        target: Literal["cpu", "gpu", "auto"] = "auto",
        context: int | None = None,
        kv_bytes: int | None = None,
        draft: Path | None = None,
        shape: ModelShape | None = None,
        budget: MemoryBudget | None = None,
        crashes: Crashes | None = None,
    ) -> None:
        """Start the worker and wait until the model is loaded.

        `context` is how many tokens one conversation can hold; None is the model's own limit, or the KV cache if
        that is smaller. `kv_bytes` limits the KV cache of a model nobody vouches for. `draft` is a small model of
        the same vocabulary, which guesses for this one; InvalidArgument when it cannot. Engines with the same
        `budget` make room for each other, as `settings.memory` says; before it is loaded, a model counts as its file
        and what KV cache its `shape` needs. `crashes` are those of its workers before. Raises NotFound,
        InvalidEncoding, UnsupportedOperation, TooLarge when that limit or `settings.memory` is too low, Busy while
        others are in use, or RuntimeFailure with llama.cpp's cause.
        """
        self._supervisor = Supervisor(
            start_command(path, settings, target=target, context=context, kv_bytes=kv_bytes, draft=draft),
            shape=shape,
            keep_alive=settings.keep_alive,
            memory=settings.memory,
            budget=budget or MemoryBudget(),
            crashes=crashes or Crashes(),
        )

    @property
    def info(self) -> EngineInfo:
        """What the worker has said about itself and the model when it was last started."""
        return self._supervisor.info

    def conversation(
        self,
        guest: str,
        *,
        template: Literal["auto", "none"] = "auto",
        system: str | None = None,
        overflow: Literal["shift", "error"] | None = None,
        share_system: bool = False,
        tools: tuple[Tool, ...] = (),
        adapters: Adapters = (),
    ) -> Conversation:
        """Open a conversation for `guest`, which begins with the `system` message if there is one.

        With `share_system` that message's KV cells may be shared with other guests' conversations that begin alike;
        nothing else ever is. `tools` are what the model is told it may call; without a template it is told nothing.
        Replies are made with `adapters`.
        """
        pinned = () if system is None else (Message("system", system),)
        raw = template == "none" or not self.info.has_template
        return Conversation(
            self._supervisor,
            guest,
            "none" if raw else "auto",
            overflow or ("error" if raw else "shift"),
            Transcript(system=pinned, opened=time.time(), tools=() if raw else tools),
            pinned if share_system and not raw else None,
            adapters,
        )

    def load_adapters(self, adapters: Adapters) -> None:
        """Load LoRA adapters, whose files were checked, now rather than with the first turn that has them.

        Raises InvalidEncoding for one the model cannot take, RuntimeFailure.
        """
        self._ask(self._supervisor.link(), lambda call: LoadAdapters(call, adapters))

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is, special tokens not parsed and none added; TooLarge for a very long one."""
        if len(text) > MAX_COUNT_CHARACTERS:
            raise TooLarge(f"a text of {len(text)} characters is over the limit of {MAX_COUNT_CHARACTERS} for counting")
        counted = self._ask(self._supervisor.link(), lambda call: Count(call, text))
        return counted.tokens if isinstance(counted, Counted) else 0

    def tokenize(self, data: bytes, *, add_special: bool = True, parse_special: bool = True) -> array[int]:
        """Return the tokens of a text, which need not be UTF-8; TooLarge for one that no context can hold."""
        if len(data) > self.info.context * MAX_TOKEN_CHARACTERS:
            raise TooLarge(f"a text of {len(data)} bytes is far beyond the {self.info.context} tokens of the context")
        answer = self._ask(self._supervisor.link(), lambda call: Tokenize(call, data, add_special, parse_special))
        return array(TOKEN_CODE, answer.tokens if isinstance(answer, Tokenized) else b"")

    def generate(
        self,
        guest: str,
        tokens: array[int],
        sampling: Sampling = _DEFAULT_SAMPLING,
        *,
        reverse_prompt: bytes = b"",
        context: int | None = None,
        ahead: int | None = None,
        deadline: float | None = None,
        adapters: Adapters = (),
    ) -> RawReply:
        """Make the reply to bare tokens, outside of any conversation; `sampling.stop` does not count here.

        Returns when the worker has queued it. The reply ends with `reverse_prompt`, or when prompt and reply have
        `context` tokens; it pauses whenever it is `ahead` tokens ahead of what was taken of it. `deadline` is a
        `time.monotonic()` value. Raises InvalidArgument, TooLarge, Busy when the queue is full, TimedOut, and
        RuntimeFailure when the worker cannot be had.
        """
        link = self._supervisor.link()
        call = self._supervisor.number()
        reply = RawReply(
            deadline,
            partial(link.send, Cancel(call)),
            partial(self._supervisor.abandon, link, call),
            lambda tokens: link.send(Take(call, tokens)),
            ahead,
        )
        self._supervisor.call(link, call, partial(_on_raw_notice, reply))
        link.send(Generate(call, guest, tokens.tobytes(), sampling, reverse_prompt, context, ahead, deadline, adapters))
        reply.wait_accepted()
        return reply

    def embed(self, tokens: array[int], *, pooling: int = -1, deadline: float | None = None) -> array[float]:
        """Return the embedding of tokens as a vector of length 1; see `embed_all`."""
        return self.embed_all([tokens], pooling=pooling, deadline=deadline)[0]

    def embed_all(
        self, texts: Sequence[array[int]], *, pooling: int = -1, deadline: float | None = None
    ) -> list[array[float]]:
        """Return the embeddings of texts, given as tokens, as vectors of length 1; those that fit share a step.

        `pooling` is as in messages.Embed. Raises InvalidArgument, TooLarge, Busy, TimedOut, RuntimeFailure.
        """
        link = self._supervisor.link()

        def ask(text: array[int]) -> tuple[int, Future[Event]]:
            return self._query(link, lambda call: Embed(call, text.tobytes(), pooling, deadline))

        vectors: list[array[float]] = []
        for start in range(0, len(texts), EMBED_AT_ONCE):
            asked = list(map(ask, texts[start : start + EMBED_AT_ONCE]))
            try:
                vectors += [_vector(answer.result()) for _, answer in asked]
            except BaseException:
                for call, _ in asked:
                    self._supervisor.abandon(link, call)
                raise
        return vectors

    @property
    def max_embed_tokens(self) -> int:
        """Most tokens an embedding is made of."""
        return min(MAX_EMBED_TOKENS, self.info.n_ctx_train)

    def share(self, settings: EngineSettings) -> None:
        """Let guests share the model as the weights and quotas of `settings` say, from now on."""
        self._supervisor.share(Share(dict(settings.weights), settings.kv_quota, dict(settings.kv_quotas)))

    def keep_alive(self, seconds: float) -> None:
        """Keep the worker that runs for so many seconds after its last use, below 0 for ever; the next one is kept as
        the settings say.
        """
        self._supervisor.keep_alive(seconds)

    def stats(self) -> EngineStats:
        """Return the worker's counters; all zero while none runs."""
        starts, link = self._supervisor.running()
        if link is None:
            return EngineStats(worker_starts=starts)
        try:
            read = self._ask(link, ReadStats)
        except RuntimeFailure:  # it has just died
            return EngineStats(worker_starts=starts)
        stats = read.stats if isinstance(read, StatsRead) else EngineStats()
        unload_seconds = self._supervisor.unload_seconds(busy=bool(stats.running or stats.queue))
        return msgspec.structs.replace(stats, worker_starts=starts, unload_seconds=unload_seconds)

    def close(self) -> None:
        """End the worker; running calls end with RuntimeFailure. Idempotent."""
        self._supervisor.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, link: Link, query: Callable[[int], Command]) -> Event:
        """Send a query and wait for its answer; raises the PromptdError that came instead."""
        return self._query(link, query)[1].result()

    def _query(self, link: Link, query: Callable[[int], Command]) -> tuple[int, Future[Event]]:
        """Send a query; return its call, and where its answer, or the PromptdError that comes instead, will be."""
        call = self._supervisor.number()
        answer: Future[Event] = Future()

        def on_notice(notice: Notice) -> None:
            if isinstance(notice, PromptdError):
                answer.set_exception(notice)
            elif isinstance(notice, Failed):
                answer.set_exception(_error(notice))
            elif not isinstance(notice, str | bytes):
                answer.set_result(notice)

        self._supervisor.call(link, call, on_notice)
        link.send(query(call))
        return call, answer


def start_command(
    path: Path,
    settings: EngineSettings,
    *,
    target: Literal["cpu", "gpu", "auto"] = "auto",
    context: int | None = None,
    kv_bytes: int | None = None,
    draft: Path | None = None,
) -> Start:
    """Return what a worker of the model in `path` is told first; see `Engine`."""
    return Start(
        path=str(path.absolute()),
        target=target,
        context=context,
        kv_tokens=settings.kv_tokens,
        max_sequences=settings.max_sequences,
        step_tokens=settings.step_tokens,
        threads=settings.threads,
        queue=settings.queue,
        speculation=settings.speculation,
        draft=None if draft is None else str(draft.absolute()),
        kv_bytes=kv_bytes,
        weights=dict(settings.weights),
        kv_quota=settings.kv_quota,
        kv_quotas=dict(settings.kv_quotas),
        spill_memory=settings.spill_memory,
        spill_disk=settings.spill_disk,
        spill_directory=None,
    )


def _on_raw_notice(reply: RawReply, notice: Notice) -> None:
    """Take what the worker says about a reply to bare tokens, on the reader thread."""
    match notice:
        case bytes():
            reply.add(notice)
        case Accepted():
            reply.accept()
        case RawEnded(piece=piece, end=end, usage=usage):
            reply.finish(end, usage, piece)
        case Failed():
            reply.fail(_error(notice))
        case PromptdError():
            reply.fail(notice)


def _vector(answer: Event) -> array[float]:
    if not isinstance(answer, Embedded):
        raise RuntimeFailure("the model's worker process gave no embedding")
    return array("f", answer.vector)


def _error(failed: Failed) -> PromptdError:
    return BY_NAME.get(failed.code, RuntimeFailure)(failed.sentence)
