"""What a guest holds by its handles: graphs, contexts, conversations, replies and errors, as `Nn` gives them out."""

from __future__ import annotations

from collections.abc import Iterator

from promptd.backends.base import ExecutionContext, Graph, PromptContext, Reply
from promptd.backends.text import TextContext
from promptd.chat import ChatOptions, Usage
from promptd.tensor import Tensor

NOTHING = Usage(prompt=0, cached=0, generated=0)


class LoadedGraph:
    """A graph that a guest holds: granted by name, or its own, which it brought as bytes."""

    def __init__(self, name: str, graph: Graph, *, own: bool = False) -> None:
        self.name = name
        self.graph = graph
        self.own = own


class Execution:
    """An execution context that a guest holds; it pins its graph."""

    def __init__(self, graph: LoadedGraph, context: ExecutionContext | TextContext) -> None:
        self.graph = graph
        self.context = context
        self.retired = False
        """Whether it is no longer one of the contexts that are limited: it can be read, and compute no more."""
        self.counted = NOTHING
        """What has been counted of the context's usage."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors that the host keeps with the context."""
        return 0

    def close(self) -> None:
        self.context.close()


class Prompt:
    """A prompt context that a guest holds; it pins its graph. `options` are the guest's own."""

    def __init__(self, graph: LoadedGraph, context: PromptContext, options: ChatOptions = ChatOptions()) -> None:
        self.graph = graph
        self.context = context
        self.options = options

    def close(self) -> None:
        self.context.close()


class ChatSession(Prompt):
    """A prompt context opened through promptd:prompt/chat."""


class ChatReply:
    """A reply that is being made, and whether its tokens have been counted."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.counted = False
        self._pieces: Iterator[str] | None = None

    def next(self) -> str | None:
        """Return the next piece, or None at the end."""
        if self._pieces is None:
            self._pieces = iter(self.reply)
        return next(self._pieces, None)


class Failure:
    """An error resource: the WIT error code and a sentence."""

    def __init__(self, code: str, data: str) -> None:
        self.code = code
        self.data = data


def size_of(thing: object) -> int:
    """Return how many bytes of the guest's a handle's object keeps: what tensors and the guest's own errors hold."""
    if isinstance(thing, Tensor):
        return len(thing.data)
    return len(thing.data.encode(errors="replace")) if isinstance(thing, Failure) else 0
