"""The protocols the wasm side reaches models through: what a graph, an execution context and a prompt context are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from promptd.chat import ChatOptions, Completion, Message, Tool
from promptd.config import GraphSettings
from promptd.errors import PromptdError
from promptd.tensor import NamedTensor

ReplySink = Callable[[str | Completion | PromptdError], None]
"""What a subscriber of a reply is: see `Reply.subscribe`."""


class Reply(Protocol):
    """A reply in the making. Iterating yields pieces of whole characters as they come, and ends or raises with it."""

    def __iter__(self) -> Iterator[str]: ...

    def subscribe(self, sink: ReplySink) -> None:
        """Instead of iterating: give `sink` each piece, those there already first, then one Completion or PromptdError.

        `sink` is called on a thread of the backend's, or within `subscribe`, and has to return at once.
        """

    def result(self) -> Completion:
        """Wait for the end and return the whole reply; raises the PromptdError that ended it."""

    def cancel(self) -> None:
        """Stop within one engine step; `result` then gives what there is, as CANCELLED. Idempotent, from any thread."""


class PromptContext(Protocol):
    """One conversation with one graph. Calls of one context do not overlap; a second raises Busy."""

    def send(
        self,
        messages: Sequence[Message],
        options: ChatOptions = ChatOptions(),
        *,
        deadline: float | None = None,
    ) -> Reply:
        """Append `messages` and start the assistant's reply; a failed or cancelled turn leaves the context as it was.

        `deadline` is a `time.monotonic()` value, past which the reply fails with TimedOut and its tokens are
        forgotten. Raises InvalidArgument for options out of range, TooLarge when the messages cannot fit, Busy
        while another reply is running.
        """

    def fork(self) -> PromptContext:
        """Return a second conversation with the same past."""

    def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns; InvalidArgument when there are fewer."""

    def close(self) -> None:
        """Free what the conversation holds; cancels a running reply. Idempotent."""


class ExecutionContext(Protocol):
    """One inference: named tensors in, named tensors out."""

    def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
        """Run the graph on `inputs`; raises a PromptdError."""

    def close(self) -> None:
        """Free what the context holds. Idempotent."""


class Graph(Protocol):
    """A loaded model. Many guests share one; each context is alone with its state."""

    def prompt_context(
        self, guest: str, options: ChatOptions = ChatOptions(), *, tools: Sequence[Tool] = ()
    ) -> PromptContext:
        """Open a conversation for `guest` (an identity that accounting and cache isolation go by).

        `tools` are what the model is told it may ask for to be called. Raises UnsupportedOperation where the graph
        takes no prompts, or no tools.
        """

    def execution_context(self, guest: str) -> ExecutionContext:
        """Open an execution context; raises UnsupportedOperation where the graph takes no tensors."""

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is, special tokens not parsed; raises UnsupportedOperation."""

    def close(self) -> None:
        """Unload the model; running calls end with RuntimeFailure. Idempotent."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """What a text means, as a vector of length 1."""

    vector: array[float]
    tokens: int
    """How many tokens it was made of."""


@runtime_checkable
class Embeds(Protocol):
    """A graph that makes embeddings."""

    def embed(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        truncate: bool = False,
        tokens: int | None = None,
        deadline: float | None = None,
    ) -> list[Embedding]:
        """Return the embeddings of texts, each text or tokens; `truncate` takes the beginning of one that is too long.

        They are pooled as the model was made for, or the mean of all tokens is taken. `tokens` is how many all may have
        together, `deadline` a `time.monotonic()` value. Raises InvalidArgument, TooLarge, Busy, TimedOut,
        RuntimeFailure.
        """


@runtime_checkable
class Configurable(Protocol):
    """A graph whose options a guest can read, and change for itself."""

    @property
    def settings(self) -> GraphSettings:
        """The options its contexts are opened with."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What a guest may know of the model, by name."""

    def configured(self, settings: GraphSettings) -> Graph:
        """Return a graph of the same model with other options; it is to be closed in place of this one."""
