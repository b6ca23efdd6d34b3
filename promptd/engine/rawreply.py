"""A reply to bare tokens as its caller sees it: one piece of bytes for each token, filled by the engine's reader
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from promptd.chat import Usage
from promptd.engine.messages import RawEnd
from promptd.engine.pending import PendingReply
from promptd.errors import PromptdError

TOLD_TOKENS = 8
"""How many tokens are taken before the worker is told, at most."""


@dataclass(frozen=True, slots=True)
class RawCompletion:
    """A whole reply: `data` is what its tokens spell, control tokens included, and is not always whole UTF-8."""

    data: bytes
    end: RawEnd
    usage: Usage


class RawReply(PendingReply[bytes, tuple[RawEnd, Usage]]):
    """A reply that is being made. Pieces can be taken one by one, by one thread."""

    def __init__(
        self,
        deadline: float | None,
        cancel: Callable[[], None],
        abandon: Callable[[], None],
        took: Callable[[int], None] = lambda _tokens: None,
        ahead: int | None = None,
    ) -> None:
        """`took` is told of pieces taken, some at a time: the worker waits when it is `ahead` pieces ahead."""
        super().__init__(deadline, cancel, abandon)
        self._took = took
        self._told_tokens = TOLD_TOKENS if ahead is None else max(1, min(TOLD_TOKENS, ahead))
        self._taken = 0

    @property
    def end(self) -> RawEnd | None:
        """Why the reply ended, once all its pieces have been taken; None before, and where an error ended it."""
        with self._lock:
            if self._taken < len(self._pieces) or not isinstance(self._outcome, tuple):
                return None
            return self._outcome[0]

    def next_piece(self) -> bytes | None:
        """Wait for the next token and return its bytes, or None at the end; raises the error that ended the reply."""
        with self._lock:
            self._wait_beyond(self._taken)
            if len(self._pieces) > self._taken:
                self._taken += 1
                if self._taken % self._told_tokens == 0 and self._outcome is None:
                    self._took(self._told_tokens)
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
        end, usage = self._await_outcome()
        return RawCompletion(b"".join(self._pieces), end, usage)

    def settle(self, seconds: float) -> Usage | None:
        """Wait for the end, but not longer than `seconds`; return what the reply has cost, if that is known."""
        with self._lock:
            self._settled.wait_for(lambda: self._outcome is not None, seconds)
            return self._outcome[1] if isinstance(self._outcome, tuple) else None

    def finish(self, end: RawEnd, usage: Usage, piece: bytes | None = None) -> None:
        """The reply has ended, with a last token if `piece` is given."""
        with self._lock:
            if piece is not None:
                self.add(piece)
            self._finish((end, usage))
