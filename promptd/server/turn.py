"""The bridge between the threads that make a reply and the event loop that sends it: one turn, in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

from promptd.chat import Completion
from promptd.errors import Busy, PromptdError
from promptd.server.keys import current_client
from promptd.server.metrics import Metrics, Stopwatch

Outcome = Completion | PromptdError
"""How a turn ends."""

Event = str | Outcome
"""What happens in a turn: pieces of the reply, then the outcome."""

_log = logging.getLogger(__name__)

STOP_S = 5.0
"""What cancelled turns get to end in: a step of the engine, or the epoch tick that stops a guest."""


class Mailbox:
    """Where threads leave what happens for the event loop, which is woken once for all that is there: one step of the
    engine adds a piece to many replies.
    """

    def __init__(self) -> None:
        """Belongs to the running event loop."""
        self.loop = asyncio.get_running_loop()
        self._left: deque[tuple[Callable[[Event], None], Event]] = deque()
        self._lock = threading.Lock()
        self._woken = False

    def put(self, receive: Callable[[Event], None], event: Event) -> None:
        """Let the loop call `receive` with `event`; from any thread. What one thread puts comes in its order."""
        with self._lock:
            self._left.append((receive, event))
            if self._woken:
                return
            self._woken = True
        with contextlib.suppress(RuntimeError):  # The loop is closed: the daemon has gone down, nobody listens.
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            self._woken = False
            left = list(self._left)
            self._left.clear()
        for receive, event in left:
            try:
                receive(event)
            except Exception:
                _log.exception("an event of a turn could not be taken")


class Turn:
    """One reply on its way to one client; made by `Turns.start`.

    `put` may be called from any thread, and is called with exactly one Completion or PromptdError at the end, also
    after `cancel`; that is when `ended` is called. The rest belongs to the event loop.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        cancel: Callable[[], None],
        ended: Callable[[Turn, Outcome], None],
        stopwatch: Stopwatch,
    ) -> None:
        self._mailbox = mailbox
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._cancel = cancel
        self._ended = ended
        self._stopwatch = stopwatch
        self._over = False

    def put(self, event: Event) -> None:
        """Pass on the next event of the reply."""
        self._mailbox.put(self._receive, event)

    def _receive(self, event: Event) -> None:
        self._events.put_nowait(event)
        if isinstance(event, str):
            self._stopwatch.piece()
        else:
            self._over = True
            self._ended(self, event)

    async def next(self, timeout_s: float | None = None) -> str | Completion | None:
        """Return the next piece, at the end the Completion, or None when `timeout_s` pass without either.

        Raises the PromptdError that ended the reply.
        """
        try:
            async with asyncio.timeout(timeout_s):
                event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, PromptdError):
            raise event
        return event

    def cancel(self) -> None:
        """Stop making the reply, unless it is there already. Idempotent."""
        if not self._over:
            self._cancel()

    def abort(self, error: PromptdError) -> None:
        """Cancel, and let the client see `error` as the end of its reply."""
        self._events.put_nowait(error)
        self.cancel()


class Turns:
    """The turns that are running, so that a daemon that goes down can wait for them."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._mailbox: Mailbox | None = None
        """Made with the first turn, on the event loop."""
        self._running: set[Turn] = set()
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the daemon is going down."""
        return self._draining

    def start(self, model: str, cancel: Callable[[], None], ended: Callable[[Outcome], None]) -> Turn:
        """Return a turn of `model` that `cancel` stops; `ended` is called on the event loop once it is over.

        Raises Busy once the daemon is going down.
        """
        if self._draining:
            raise Busy("promptd is shutting down")

        client = current_client()

        def forget(turn: Turn, outcome: Outcome) -> None:
            self._running.discard(turn)
            self.metrics.turn_ended(model, client.name, outcome)
            if isinstance(outcome, Completion):
                client.charge(outcome.usage)
            ended(outcome)

        if self._mailbox is None or self._mailbox.loop is not asyncio.get_running_loop():
            self._mailbox = Mailbox()
        turn = Turn(self._mailbox, cancel, forget, Stopwatch(self.metrics, model))
        self._running.add(turn)
        return turn

    async def drain(self, grace_s: float) -> None:
        """Take no more turns, give those that run `grace_s` to end, then abort them."""
        self._draining = True
        await self._settled(grace_s)
        for turn in self._running:
            turn.abort(Busy("promptd is shutting down; this reply is incomplete"))
        await self._settled(STOP_S)

    async def _settled(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._running:
                    await asyncio.sleep(0.02)
