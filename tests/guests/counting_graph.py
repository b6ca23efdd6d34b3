"""A graph that shows a test what it was asked: its answers are `[turn] question`, a word at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from promptd.backends.base import ReplySink
from promptd.backends.echo import EchoExecution
from promptd.chat import ChatOptions, Completion, Message, StopReason, Usage
from promptd.errors import InvalidArgument, RuntimeFailure


class CountingGraph:
    """Counts the turns of each conversation; the question `fail` fails."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Message]] = []
        """The messages of every turn."""
        self.between_pieces: Callable[[str], None] = lambda said: None
        """Called before every piece but the first, with what has been said so far."""

    def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> CountingPrompt:
        return CountingPrompt(self)

    def execution_context(self, guest: str) -> EchoExecution:
        return EchoExecution()

    def count_tokens(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        """Nothing is held."""


class CountingPrompt:
    """A conversation."""

    def __init__(self, graph: CountingGraph, turns: int = 0) -> None:
        self._graph = graph
        self._turns = turns

    def send(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions(), *, deadline: float | None = None
    ) -> CountingReply:
        self._graph.asked.append(messages)
        if messages[-1].content == "fail":
            raise RuntimeFailure("the model is out of order")
        self._turns += 1
        return CountingReply(f"[{self._turns}] {messages[-1].content}", self._graph.between_pieces)

    def fork(self) -> CountingPrompt:
        return CountingPrompt(self._graph, self._turns)

    def rewind(self, turns: int) -> None:
        if turns > self._turns:
            raise InvalidArgument("there is nothing to forget")
        self._turns -= turns

    def close(self) -> None:
        """Nothing is held."""


class CountingReply:
    """A reply, a word at a time."""

    def __init__(self, text: str, between_pieces: Callable[[str], None]) -> None:
        self._text = text
        self._between_pieces = between_pieces

    def __iter__(self) -> Iterator[str]:
        said, *words = self._text.split(" ")
        yield said
        for word in words:
            self._between_pieces(said)
            yield f" {word}"
            said += f" {word}"

    def subscribe(self, sink: ReplySink) -> None:
        for piece in self:
            sink(piece)
        sink(self.result())

    def result(self) -> Completion:
        return Completion(self._text, StopReason.END_OF_TURN, Usage(prompt=1, cached=0, generated=1))

    def cancel(self) -> None:
        """There is nothing to stop."""
