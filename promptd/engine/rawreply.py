"""A reply to bare tokens as its caller sees it: one piece of bytes for each token, filled by the engine's reader
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from promptd.chat import Usage
from promptd.engine.messages import RawEnd
from promptd.engine.reply import DEADLINE_GRACE_S
from promptd.errors import PromptdError, TimedOut

TOLD_TOKENS = 8
"""How many tokens are taken before the worker is told."""


@dataclass(frozen=True, slots=True)
class RawCompletion:
    """A whole reply: `data` is what its tokens spell, control tokens included, and is not always whole UTF-8."""

    data: bytes
    end: RawEnd
    usage: Usage


class RawReply:
    """A reply that is being made. Pieces can be taken one by one, by one thread."""

    def __init__(
        self,
        deadline: float | None,
        cancel: Callable[[], None],
        abandon: Callable[[], None],
        took: Callable[[int], None] = lambda _tokens: None,
    ) -> None:
        """`took` is told of pieces taken, some at a time."""
        self._deadline = deadline
        self._cancel = cancel
        self._abandon = abandon
        self._took = took
        self._changed = threading.Condition()
        self._accepted = False
        self._pieces: list[bytes] = []
        self._taken = 0
        self._outcome: tuple[RawEnd, Usage] | PromptdError | None = None

    @property
    def end(self) -> RawEnd | None:
        """Why the reply ended, once all its pieces have been taken; None before, and where an error ended it."""
        with self._changed:
            if self._taken < len(self._pieces) or not isinstance(self._outcome, tuple):
                return None
            return self._outcome[0]

    def next_piece(self) -> bytes | None:
        """Wait for the next token and return its bytes, or None at the end; raises the error that ended the reply."""
        with self._changed:
            self._wait(lambda: len(self._pieces) > self._taken or self._outcome is not None)
            if len(self._pieces) > self._taken:
                self._taken += 1
                if self._taken % TOLD_TOKENS == 0 and self._outcome is None:
                    self._took(TOLD_TOKENS)
                return self._pieces[self._taken - 1]
            if isinstance(self._outcome, PromptdError):
                raise self._outcome
            return None

    def __iter__(self) -> Iterator[bytes]:
        """Yield what `next_piece` returns until the end."""
        while (piece := self.next_piece()) is not None:
            yield piece

    def result(self) -> RawCompletion:
        """Wait for the end and return the whole reply; raises the PromptdError that ended it."""
        with self._changed:
            self._wait(lambda: self._outcome is not None)
            outcome = self._outcome
            if isinstance(outcome, PromptdError):
                raise outcome
            assert outcome is not None
            end, usage = outcome
            return RawCompletion(b"".join(self._pieces), end, usage)

    def settle(self, seconds: float) -> Usage | None:
        """Wait for the end, but not longer than `seconds`; return what the reply has cost, if that is known."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None, seconds)
            return self._outcome[1] if isinstance(self._outcome, tuple) else None

    def cancel(self) -> None:
        """Stop within one step of the engine; the reply then ends with CANCELLED. Idempotent, from any thread."""
        if self._outcome is None:
            self._cancel()

    def wait_accepted(self) -> None:
        """Wait until the worker has queued the prompt; raises the PromptdError with which it refused."""
        with self._changed:
            self._wait(lambda: self._accepted or self._outcome is not None)
            if not self._accepted and isinstance(self._outcome, PromptdError):
                raise self._outcome

    def accept(self) -> None:
        """The worker has queued the prompt."""
        with self._changed:
            self._accepted = True
            self._changed.notify_all()

    def add(self, piece: bytes) -> None:
        """The worker has made a token."""
        with self._changed:
            if self._outcome is None:
                self._pieces.append(piece)
                self._changed.notify_all()

    def finish(self, outcome: tuple[RawEnd, Usage] | PromptdError, piece: bytes | None = None) -> None:
        """The reply has ended, with a last token if `piece` is given."""
        with self._changed:
            if self._outcome is None:
                if piece is not None:
                    self._pieces.append(piece)
                self._outcome = outcome
                self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready`; a worker that does not answer past the deadline is given up."""
        timeout = None if self._deadline is None else max(0.0, self._deadline + DEADLINE_GRACE_S - time.monotonic())
        if not self._changed.wait_for(ready, timeout):
            self._abandon()
            self.finish(TimedOut("the deadline passed and the model's worker process did not answer"))
