"""A reply as its caller sees it, filled by the engine's reader thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from promptd.chat import Completion, Message, Piece, StopReason, Usage
from promptd.errors import PromptdError, TimedOut

DEADLINE_GRACE_S = 2.0
"""The worker keeps deadlines itself, between steps; a caller that still waits this long after its own stops waiting
for the worker.
"""

_log = logging.getLogger(__name__)

Sink = Callable[[str | Completion | PromptdError], None]


class Reply:
    """A reply that is being made."""

    def __init__(
        self,
        messages: tuple[Message, ...],
        deadline: float | None,
        cancel: Callable[[], None],
        abandon: Callable[[], None],
    ) -> None:
        self.messages = messages
        self._deadline = deadline
        self._cancel = cancel
        self._abandon = abandon
        self._changed = threading.Condition()
        self._accepted = False
        self._pieces: list[str] = []
        self._outcome: Completion | PromptdError | None = None
        self._sink: Sink | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces of the text from the first on, of the class Piece where log-probabilities were asked for;
        raises the error that ended the reply.
        """
        index = 0
        while True:
            with self._changed:
                self._wait(partial(self._is_beyond, index))
                pieces = self._pieces[index:]
                outcome = self._outcome
            yield from pieces
            index += len(pieces)
            if not pieces and outcome is not None:
                if isinstance(outcome, PromptdError):
                    raise outcome
                return

    def result(self) -> Completion:
        """Wait for the end and return the whole reply; raises the PromptdError that ended it."""
        with self._changed:
            self._wait(lambda: self._outcome is not None)
            outcome = self._outcome
        if isinstance(outcome, Completion):
            return outcome
        assert outcome is not None
        raise outcome

    def cancel(self) -> None:
        """Stop within one step of the engine. `result` then returns what there is, with CANCELLED. Idempotent, from
        any thread.
        """
        if self._outcome is None:
            self._cancel()

    def subscribe(self, sink: Sink) -> None:
        """Give `sink` every piece, also those that are there already, and then the Completion or the PromptdError
        that ends the reply.

        It is called on the engine's reader thread, one call at a time, and must neither block nor call the engine.
        """
        with self._changed:
            for piece in self._pieces:
                sink(piece)
            if self._outcome is None:
                self._sink = sink
            else:
                sink(self._outcome)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def wait_accepted(self) -> None:
        """Wait until the worker has queued the turn; raises the PromptdError with which it refused."""
        with self._changed:
            self._wait(lambda: self._accepted or self._outcome is not None)
            if not self._accepted and isinstance(self._outcome, PromptdError):
                raise self._outcome

    def accept(self) -> None:
        """The worker has queued the turn."""
        with self._changed:
            self._accepted = True
            self._changed.notify_all()

    def add(self, piece: str) -> None:
        """The worker has made a piece."""
        with self._changed:
            if self._outcome is None:
                self._pieces.append(piece)
                self._tell(piece)
                self._changed.notify_all()

    def end(self, stop_reason: StopReason, usage: Usage) -> None:
        """The reply is whole, or cancelled."""
        logprobs = (each for piece in self._pieces if isinstance(piece, Piece) for each in piece.logprobs)
        self._finish(Completion(self.text, stop_reason, usage, tuple(logprobs)))

    def fail(self, error: PromptdError) -> None:
        """The reply ends with an error."""
        self._finish(error)

    def _is_beyond(self, pieces: int) -> bool:
        return len(self._pieces) > pieces or self._outcome is not None

    def _finish(self, outcome: Completion | PromptdError) -> None:
        with self._changed:
            if self._outcome is None:
                self._outcome = outcome
                self._tell(outcome)
                self._changed.notify_all()

    def _tell(self, event: str | Completion | PromptdError) -> None:
        """Tell the subscriber. One that raises, for example since its event loop is closed, must not end the reader."""
        if self._sink is not None:
            try:
                self._sink(event)
            except Exception:
                _log.exception("a subscriber of a reply failed, and is told nothing more")
                self._sink = None

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready`; a worker that does not answer past the deadline is not waited
        for.
        """
        timeout = None if self._deadline is None else max(0.0, self._deadline + DEADLINE_GRACE_S - time.monotonic())
        if not self._changed.wait_for(ready, timeout):
            self._abandon()
            self._finish(TimedOut("the deadline passed and the model's worker process did not answer"))
