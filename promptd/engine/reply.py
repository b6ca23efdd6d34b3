"""A reply of a conversation as its caller sees it, filled by the engine's reader thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from promptd.chat import Completion, Message, Piece, StopReason, Usage
from promptd.engine.pending import PendingReply
from promptd.errors import PromptdError

_log = logging.getLogger(__name__)

Sink = Callable[[str | Completion | PromptdError], None]


class Reply(PendingReply[str, Completion]):
    """A reply that is being made. Once cancelled, `result` returns what there is, with CANCELLED.

    Its text comes at its end, unless somebody iterates or subscribes: who only waits for the result costs no message
    at every step.
    """

    def __init__(
        self,
        messages: tuple[Message, ...],
        deadline: float | None,
        cancel: Callable[[], None],
        abandon: Callable[[], None],
        follow: Callable[[], None],
    ) -> None:
        """`follow` asks for the text as it is made."""
        super().__init__(deadline, cancel, abandon)
        self._follow = follow
        self.messages = messages
        self._sink: Sink | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces of the text from the first on, of the class Piece where log-probabilities were asked for;
        raises the error that ended the reply.
        """
        index = 0
        self._ask_for_pieces()
        while True:
            with self._lock:
                self._wait_beyond(index)
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
        return self._await_outcome()

    def subscribe(self, sink: Sink) -> None:
        """Give `sink` every piece, also those that are there already, and then the Completion or the PromptdError
        that ends the reply.

        It is called on the engine's reader thread, one call at a time, and must neither block nor call the engine.
        """
        with self._lock:
            for piece in self._pieces:
                sink(piece)
            if self._outcome is None:
                self._sink = sink
            else:
                sink(self._outcome)
        self._ask_for_pieces()

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return "".join(self._pieces)

    def add(self, piece: str) -> None:
        """The worker has made a piece."""
        with self._lock:
            if self._outcome is None:
                super().add(piece)
                self._tell(piece)

    def end(self, stop_reason: StopReason, usage: Usage) -> None:
        """The reply is whole, or cancelled."""
        logprobs = (each for piece in self._pieces if isinstance(piece, Piece) for each in piece.logprobs)
        self._finish(Completion(self.text, stop_reason, usage, tuple(logprobs)))

    def _ask_for_pieces(self) -> None:
        if self._outcome is None:
            self._follow()

    def _finish(self, outcome: Completion | PromptdError) -> None:
        with self._lock:
            if self._outcome is None:
                super()._finish(outcome)
                self._tell(outcome)

    def _tell(self, event: str | Completion | PromptdError) -> None:
        """Tell the subscriber. One that raises, for example since its event loop is closed, must not end the reader."""
        if self._sink is not None:
            try:
                self._sink(event)
            except Exception:
                _log.exception("a subscriber of a reply failed, and is told nothing more")
                self._sink = None
