"""The engine in the parent process: conversations with one model, whose worker may die without taking a
conversation along.

Every conversation's transcript is kept here as well as in the worker. When the worker dies, the calls in flight
fail, the next call starts a new worker, and each conversation is given to it with its transcript at its next turn.
"""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from promptd.chat import Message, Piece, Tool
from promptd.config import EngineSettings
from promptd.engine.adapters import Adapters
from promptd.engine.conversation import Conversation
from promptd.engine.crashes import Crashes
from promptd.engine.kv_size import ModelShape, kv_cells
from promptd.engine.link import Link
from promptd.engine.memory import Claim, MemoryBudget
from promptd.engine.messages import (
    MAX_EMBED_TOKENS,
    MAX_TOKEN_CHARACTERS,
    Accepted,
    AdaptersLoaded,
    Cancel,
    Close,
    Command,
    Count,
    Counted,
    Embed,
    Embedded,
    Ended,
    Event,
    Failed,
    Generate,
    LoadAdapters,
    Pieces,
    RawEnded,
    RawPieces,
    ReadStats,
    Scored,
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
from promptd.engine.transcript import TOKEN_CODE, Transcript
from promptd.errors import BY_NAME, PromptdError, RuntimeFailure, TooLarge

MAX_COUNT_CHARACTERS = 1024**2
"""The worker tokenises some megabytes a second, and nobody's reply goes on meanwhile."""

EMBED_AT_ONCE = 64
"""Texts whose embeddings one call asks the worker for at once; its queue is for all calls."""

MIN_IDLE_S = 0.05
"""A worker is used by whoever has just asked for it, and is about to call it."""
IN_USE_POLL_S = 1.0
"""How often it is seen whether the calls of a worker that should be unloaded have ended."""

_DEFAULTS = EngineSettings()

_DEFAULT_SAMPLING = Sampling()

Notice = Event | str | bytes | PromptdError
"""What a call hears: events about it, pieces of its text, or that the worker is gone."""
Handler = Callable[[Notice], None]


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
        self.path = path
        self._start = Start(
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
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        """Held while a worker starts, so that one is started however many call."""
        self._link: Link | None = None
        self._handlers: dict[int, tuple[Link, Handler]] = {}
        self._discarded: deque[tuple[Link, int]] = deque()
        self._crashes = crashes or Crashes()
        self._starts = 0
        self._default_keep_alive = settings.keep_alive
        self._keep_alive = settings.keep_alive
        self._idle = threading.Condition(self._lock)
        """Told when what decides the worker's end when idle changes, beside time."""
        self._used = 0.0
        """When the worker was last asked to do something, or was done."""
        self._closed = False
        self._budget = budget or MemoryBudget()
        self._memory = settings.memory
        self._model_bytes = _size(path) + (0 if draft is None else _size(draft))
        self._kv_bytes = 0 if shape is None else kv_cells(self._start, shape) * shape.kv_cell_bytes
        """What the worker takes, by what the files say, until it has been loaded and says it itself."""
        with self._start_lock:
            self._start_worker()

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
            self,
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
        self._ask(self.link(), lambda call: LoadAdapters(call, adapters))

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is, special tokens not parsed and none added; TooLarge for a very long one."""
        if len(text) > MAX_COUNT_CHARACTERS:
            raise TooLarge(f"a text of {len(text)} characters is over the limit of {MAX_COUNT_CHARACTERS} for counting")
        counted = self._ask(self.link(), lambda call: Count(call, text))
        return counted.tokens if isinstance(counted, Counted) else 0

    def tokenize(self, data: bytes, *, add_special: bool = True, parse_special: bool = True) -> array[int]:
        """Return the tokens of a text, which need not be UTF-8; TooLarge for one that no context can hold."""
        if len(data) > self.info.context * MAX_TOKEN_CHARACTERS:
            raise TooLarge(f"a text of {len(data)} bytes is far beyond the {self.info.context} tokens of the context")
        answer = self._ask(self.link(), lambda call: Tokenize(call, data, add_special, parse_special))
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
        link = self.link()
        call = self.number()
        reply = RawReply(
            deadline,
            partial(link.send, Cancel(call)),
            partial(self._abandon, link, call),
            lambda tokens: link.send(Take(call, tokens)),
            ahead,
        )
        self.call(link, call, partial(_on_raw_notice, reply))
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
        link = self.link()

        def ask(text: array[int]) -> tuple[int, Future[Event]]:
            return self._query(link, lambda call: Embed(call, text.tobytes(), pooling, deadline))

        vectors: list[array[float]] = []
        for start in range(0, len(texts), EMBED_AT_ONCE):
            asked = list(map(ask, texts[start : start + EMBED_AT_ONCE]))
            try:
                vectors += [_vector(answer.result()) for _, answer in asked]
            except BaseException:
                for call, _ in asked:
                    self._abandon(link, call)
                raise
        return vectors

    @property
    def max_embed_tokens(self) -> int:
        """Most tokens an embedding is made of."""
        return min(MAX_EMBED_TOKENS, self.info.n_ctx_train)

    def share(self, settings: EngineSettings) -> None:
        """Let guests share the model as the weights and quotas of `settings` say, from now on."""
        share = Share(dict(settings.weights), settings.kv_quota, dict(settings.kv_quotas))
        with self._start_lock:
            changed = msgspec.structs.replace(
                self._start, weights=share.weights, kv_quota=share.kv_quota, kv_quotas=share.kv_quotas
            )
            if changed == self._start:
                return
            self._start = changed
            with self._lock:
                link = self._link
        if link is not None:
            link.send(share)

    def stats(self) -> EngineStats:
        """Return the worker's counters; all zero while none runs."""
        with self._lock:
            starts, link = self._starts, self._link
        if link is None:
            return EngineStats(worker_starts=starts)
        try:
            read = self._ask(link, ReadStats)
        except RuntimeFailure:  # it has just died
            return EngineStats(worker_starts=starts)
        stats = read.stats if isinstance(read, StatsRead) else EngineStats()
        return msgspec.structs.replace(stats, worker_starts=starts, unload_seconds=self._unload_seconds(stats))

    def _unload_seconds(self, stats: EngineStats) -> float | None:
        if self._keep_alive < 0:
            return None
        if stats.running or stats.queue:
            return self._keep_alive
        return max(0.0, self._used + self._keep_alive - time.monotonic())

    def close(self) -> None:
        """End the worker; running calls end with RuntimeFailure. Idempotent."""
        with self._lock:
            self._closed = True
            link = self._link
            self._idle.notify_all()
        if link is not None:
            link.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def number(self) -> int:
        """Return a number for a conversation or a call."""
        return next(self._numbers)

    def link(self) -> Link:
        """Return the link to a live worker, starting one if need be; raises RuntimeFailure when that is refused or
        fails.
        """
        with self._start_lock:
            with self._lock:
                link = self._link
                self._used = time.monotonic()
            return link or self._start_worker()

    def call(self, link: Link, call: int, handler: Handler) -> None:
        """Let `handler` be told of everything about `call` until it ends."""
        while self._discarded:
            discarded_in, conversation = self._discarded.popleft()
            discarded_in.send(Close(conversation))
        with self._lock:
            if link.alive:
                self._handlers[call] = (link, handler)
                return
        handler(self._lost(link))

    def forget(self, call: int) -> None:
        """Tell the handler of `call` nothing more."""
        with self._lock:
            self._handlers.pop(call, None)

    def discard(self, link: Link, conversation: int) -> None:
        """Close a conversation that was garbage-collected, soon: its collector may hold any lock."""
        self._discarded.append((link, conversation))

    def _start_worker(self) -> Link:
        """Start a worker, unless too many crashed lately."""
        with self._lock:
            self._check_open()
        self._crashes.check()
        time.sleep(self._crashes.pause)
        claim = self._budget.claim(self, model=self._model_bytes, kv=self._kv_bytes, limit=self._memory)
        try:
            link = Link(self._start, self._on_event, partial(self._on_end, claim))
            with self._lock:
                self._check_open()
                self._link = link
                self._starts += 1
        except BaseException:
            self._budget.release(claim)
            raise
        self.info: EngineInfo = link.open()
        self._model_bytes, self._kv_bytes = self.info.model_bytes + self.info.draft_bytes, self.info.kv_bytes
        try:
            self._budget.settle(claim, model=self._model_bytes, kv=self._kv_bytes)
        except PromptdError:
            with self._lock:
                self._detach(link)
            link.close()
            raise
        self._used = time.monotonic()
        self._keep_alive = self._default_keep_alive
        threading.Thread(target=self._unload_when_idle, args=(link,), name="promptd-idle", daemon=True).start()
        return link

    def keep_alive(self, seconds: float) -> None:
        """Keep the worker that runs for so many seconds after its last use, below 0 for ever; the next one is kept as
        the settings say.
        """
        with self._lock:
            self._keep_alive = seconds
            self._used = time.monotonic()
            self._idle.notify_all()

    def _unload_when_idle(self, link: Link) -> None:
        """Wait until nobody has used the worker for as long as it is kept, and end it; the next call starts another."""
        while True:
            with self._start_lock, self._lock:
                if self._link is not link or self._closed:
                    return
                keep = self._keep_alive
                wait = self._used + max(keep, MIN_IDLE_S) - time.monotonic()
                if self._handlers:
                    wait = max(wait, min(max(keep, MIN_IDLE_S), IN_USE_POLL_S))
                elif wait <= 0 and keep >= 0:
                    self._detach(link)
            if not link.alive:
                link.close()
                return
            self._wait_while_kept(link, keep, wait)

    def _wait_while_kept(self, link: Link, keep: float, wait: float) -> None:
        """Wait for `wait` seconds, or for ever where `keep` says so, unless that changes or the worker ends."""
        with self._idle:
            self._idle.wait_for(
                lambda: self._closed or self._link is not link or self._keep_alive != keep, None if keep < 0 else wait
            )

    @property
    def last_used(self) -> float:
        """When the worker was last asked to do something, or was done, as a `time.monotonic()` value."""
        return self._used

    def unload_if_idle(self) -> bool:
        """End the worker if nobody uses it or is about to; the next call starts another. Say whether it was ended."""
        if not self._start_lock.acquire(blocking=False):  # it is being started
            return False
        try:
            with self._lock:
                link = self._link
                if link is None or self._handlers or time.monotonic() - self._used < MIN_IDLE_S:
                    return False
                self._detach(link)
        finally:
            self._start_lock.release()
        link.close()
        return True

    def _detach(self, link: Link) -> None:
        """Let nobody call the worker any more, whose end is no crash then; with the lock held."""
        if self._link is link:
            self._link = None
        link.alive = False
        self._idle.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeFailure("the model is closed")

    def _ask(self, link: Link, query: Callable[[int], Command]) -> Event:
        """Send a query and wait for its answer; raises the PromptdError that came instead."""
        return self._query(link, query)[1].result()

    def _query(self, link: Link, query: Callable[[int], Command]) -> tuple[int, Future[Event]]:
        """Send a query; return its call, and where its answer, or the PromptdError that comes instead, will be."""
        call = self.number()
        answer: Future[Event] = Future()

        def on_notice(notice: Notice) -> None:
            if isinstance(notice, PromptdError):
                answer.set_exception(notice)
            elif isinstance(notice, Failed):
                answer.set_exception(_error(notice))
            elif not isinstance(notice, str | bytes):
                answer.set_result(notice)

        self.call(link, call, on_notice)
        link.send(query(call))
        return call, answer

    def _on_event(self, event: Event) -> None:
        """Pass an event to the handler of its call, on the reader thread."""
        match event:
            case Pieces(pieces=pieces):
                for call, text in pieces:
                    self._tell(call, text)
            case Scored(call=call, text=text, logprobs=logprobs):
                self._tell(call, Piece(text, logprobs))
            case RawPieces(pieces=raw):
                for call, data in raw:
                    self._tell(call, data)
            case Accepted():
                self._tell(event.call, event)
            case Ended() | RawEnded() | Embedded():
                self._crashes.clear()
                self._tell(event.call, event, last=True)
            case Failed() | Counted() | StatsRead() | Tokenized() | AdaptersLoaded():
                self._tell(event.call, event, last=True)

    def _abandon(self, link: Link, call: int) -> None:
        """Give up on a reply whose worker does not answer."""
        self.forget(call)
        link.send(Cancel(call))

    def _tell(self, call: int, notice: Notice, *, last: bool = False) -> None:
        with self._lock:
            entry = self._handlers.pop(call, None) if last else self._handlers.get(call)
            if last and not isinstance(notice, StatsRead):
                self._used = time.monotonic()
        if entry is not None:
            entry[1](notice)

    def _on_end(self, claim: Claim, link: Link) -> None:
        """The worker is gone: tell everyone who waits for it."""
        self._budget.release(claim)
        with self._lock:
            crashed = link.alive and not link.refused and not self._closed
            link.alive = False
            if self._link is link:
                self._link = None
            self._idle.notify_all()
            if crashed:
                self._crashes.add(link.cause, killed=link.killed)
            lost = [call for call, (owner, _) in self._handlers.items() if owner is link]
            handlers = [self._handlers.pop(call)[1] for call in lost]
        for handler in handlers:
            handler(self._lost(link))

    def _lost(self, link: Link) -> RuntimeFailure:
        if self._closed:
            return RuntimeFailure("the model was closed")
        return RuntimeFailure(
            f"the model's worker process {link.cause}; the conversation is as it was before, and can go on"
        )


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 for one the worker will not find either."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


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
