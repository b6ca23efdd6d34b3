"""Supervises one model's worker: starts it when it is called, tells each call what it says, and unloads it when idle.

When the worker dies, the calls in flight fail, and the next call starts a new one, unless too many crashed lately.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from promptd.chat import Piece
from promptd.engine.crashes import Crashes
from promptd.engine.kv_size import ModelShape, kv_cells
from promptd.engine.link import Link
from promptd.engine.memory import Claim, MemoryBudget
from promptd.engine.messages import (
    Accepted,
    AdaptersLoaded,
    Cancel,
    Close,
    Counted,
    Embedded,
    Ended,
    Event,
    Failed,
    Pieces,
    RawEnded,
    RawPieces,
    Scored,
    Share,
    Start,
    StatsRead,
    Tokenized,
)
from promptd.engine.statistics import EngineInfo
from promptd.errors import PromptdError, RuntimeFailure

MIN_IDLE_S = 0.05
"""A worker is used by whoever has just asked for it, and is about to call it."""
IN_USE_POLL_S = 1.0
"""How often it is seen whether the calls of a worker that should be unloaded have ended."""

Notice = Event | str | bytes | PromptdError
"""What a call hears: events about it, pieces of its text, or that the worker is gone."""
Handler = Callable[[Notice], None]


class Supervisor:
    """The workers of one model, of which one runs at a time, and the calls to them. Thread-safe."""

    def __init__(
        self,
        start: Start,
        *,
        shape: ModelShape | None,
        keep_alive: float,
        memory: int | None,
        budget: MemoryBudget,
        crashes: Crashes,
    ) -> None:
        """Start a worker as `start` says and wait until its model is loaded; see `Engine` for the rest.

        `keep_alive` is how many seconds after its last use a worker is unloaded, below 0 never, and `memory` how many
        bytes all workers of the `budget` may take together.
        """
        self.path = Path(start.path)
        self._start = start
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        """Held while a worker starts, so that one is started however many call."""
        self._link: Link | None = None
        self._handlers: dict[int, tuple[Link, Handler]] = {}
        self._discarded: deque[tuple[Link, int]] = deque()
        self._crashes = crashes
        self._starts = 0
        self._default_keep_alive = keep_alive
        self._keep_alive = keep_alive
        self._idle = threading.Condition(self._lock)
        """Told when what decides the worker's end when idle changes, beside time."""
        self._used = 0.0
        """When the worker was last asked to do something, or was done."""
        self._closed = False
        self._budget = budget
        self._memory = memory
        self._model_bytes = _size(start.path) + (0 if start.draft is None else _size(start.draft))
        self._kv_bytes = 0 if shape is None else kv_cells(start, shape) * shape.kv_cell_bytes
        """What the worker takes, by what the files say, until it has been loaded and says it itself."""
        with self._start_lock:
            self._start_worker()

    def share(self, share: Share) -> None:
        """Let guests share the model as `share` says: in the worker that runs, and in those after it."""
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

    def running(self) -> tuple[int, Link | None]:
        """Return how many workers have been started, and the link to the one that runs."""
        with self._lock:
            return self._starts, self._link

    def unload_seconds(self, *, busy: bool) -> float | None:
        """Return in how many seconds the worker is unloaded if it is not used, and does not go on being `busy`; None
        is never.
        """
        if self._keep_alive < 0:
            return None
        if busy:
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

    def abandon(self, link: Link, call: int) -> None:
        """Give up on a reply whose worker does not answer."""
        self.forget(call)
        link.send(Cancel(call))

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


def _size(path: str) -> int:
    """Return the bytes of a file; 0 for one the worker will not find either."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
