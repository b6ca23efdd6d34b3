"""The protocols of language models behind tensors, as WasmEdge's guests use them: a configuration and a prompt go in, a
reply comes out whole or token by token, and metadata tell what it cost.

Each compute begins with nothing: guests send their whole history with every prompt. Prompts are taken as they are, with
special tokens parsed; replies keep the text of the token that ended them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from promptd.chat import Usage


def _ignore(_piece: bytes) -> None:
    """Print nothing."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one compute may use."""

    tokens: int | None = None
    """Most tokens, of prompt and reply together; None is no limit."""
    deadline: float | None = None
    """A `time.monotonic()` value; None is no limit."""
    print: Callable[[bytes], None] = field(default=_ignore)
    """Takes each piece of the reply as it is made, where the guest asked for `stream-stdout`."""


class TextContext(Protocol):
    """One guest's use of a language model. Its calls do not overlap, but for `cancel`."""

    usage: Usage
    """What all computes so far have cost."""

    def configure(self, config: bytes) -> None:
        """Take a configuration; raises InvalidArgument or InvalidEncoding, and then nothing has changed."""

    def set_prompt(self, data: bytes) -> None:
        """Take a prompt, which replaces the one before."""

    def compute(self, allowance: Allowance) -> None:
        """Make the whole reply to the prompt.

        Raises InvalidArgument without a prompt, PromptTooLong, ContextFull with what there is of the reply readable,
        TooLarge when the allowance is used up, TimedOut, Busy, RuntimeFailure.
        """

    def step(self, allowance: Allowance) -> bool:
        """Make the next token of the reply, beginning it where none is being made; False when it was the last.

        Raises what `compute` raises, after which the reply is no longer being made.
        """

    def finish_steps(self) -> None:
        """End the reply made by steps, and forget it."""

    def output(self) -> bytes:
        """Return the reply so far; the embedding as JSON where those were asked for."""

    def last_piece(self) -> bytes:
        """Return the last token of the reply; empty when there is none."""

    def metadata(self) -> bytes:
        """Return token counts and llama.cpp's version as JSON; at any time."""

    def cancel(self) -> None:
        """End the running compute or step; from any thread."""

    def close(self) -> None:
        """Free what the context holds; ends a running compute. Idempotent."""


class TextModel(Protocol):
    """A language model with one guest's options, which all its contexts share."""

    def context(self, guest: str) -> TextContext:
        """Open a context for `guest`, the identity that accounting and cache isolation go by."""


@runtime_checkable
class TextGraph(Protocol):
    """A graph that is a language model."""

    def text_model(self, config: bytes, guest: str) -> TextModel:
        """Return the model with the options of `config`, which may be empty; raises as `TextContext.configure`."""


@runtime_checkable
class Metered(Protocol):
    """An execution context whose computes cost tokens."""

    usage: Usage
    """What all computes so far have cost."""
    tokens_left: int | None
    """Most tokens the next compute may cost; None is no limit."""
