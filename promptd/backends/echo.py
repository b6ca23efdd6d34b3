"""The echo backend: a graph that answers prompts and tensors with themselves, to test the API and not a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptd.backends.base import ReplySink
from promptd.chat import ChatOptions, Completion, Message, StopReason, Tool, Usage
from promptd.config import GraphSettings
from promptd.errors import InvalidArgument
from promptd.tensor import NamedTensor


class EchoReply:
    """A reply that is already there, in one piece."""

    def __init__(self, text: str) -> None:
        self._completion = Completion(text, StopReason.END_OF_TURN, Usage(prompt=0, cached=0, generated=0))

    def __iter__(self) -> Iterator[str]:
        if self._completion.text:
            yield self._completion.text

    def subscribe(self, sink: ReplySink) -> None:
        for piece in self:
            sink(piece)
        sink(self._completion)

    def result(self) -> Completion:
        return self._completion

    def cancel(self) -> None:
        """Nothing to stop."""


class EchoPrompt:
    """A conversation whose every reply is the last message."""

    def __init__(self, turns: int = 0) -> None:
        self._turns = turns

    def send(
        self,
        messages: Sequence[Message],
        options: ChatOptions = ChatOptions(),
        *,
        deadline: float | None = None,
    ) -> EchoReply:
        if not messages:
            raise InvalidArgument("a turn needs at least one message")
        self._turns += 1
        return EchoReply(messages[-1].content)

    def fork(self) -> EchoPrompt:
        return EchoPrompt(self._turns)

    def rewind(self, turns: int) -> None:
        if not 0 <= turns <= self._turns:
            raise InvalidArgument(f"cannot rewind {turns} turns of a conversation that has {self._turns}")
        self._turns -= turns

    def close(self) -> None:
        """Nothing is held."""


class EchoExecution:
    """An inference whose outputs are its inputs."""

    def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
        return list(inputs)

    def close(self) -> None:
        """Nothing is held."""


class EchoGraph:
    """The graph behind the reference `echo`. It has the options of every graph, and obeys none."""

    def __init__(self, settings: GraphSettings | None = None) -> None:
        self._settings = settings or GraphSettings(model="echo")

    @property
    def settings(self) -> GraphSettings:
        """The options it was made with."""
        return self._settings

    @property
    def facts(self) -> dict[str, str]:
        """An echo takes prompts as they are."""
        return {"architecture": "echo", "template": "none"}

    def configured(self, settings: GraphSettings) -> EchoGraph:
        """Return an echo with other options."""
        return EchoGraph(settings)

    def prompt_context(
        self, guest: str, options: ChatOptions = ChatOptions(), *, tools: Sequence[Tool] = ()
    ) -> EchoPrompt:
        return EchoPrompt()

    def execution_context(self, guest: str) -> EchoExecution:
        return EchoExecution()

    def count_tokens(self, text: str) -> int:
        """An echo graph has bytes for tokens."""
        return len(text.encode())

    def close(self) -> None:
        """Nothing is held."""
