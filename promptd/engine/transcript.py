"""A conversation's past, turn by turn, as text and as the tokens that were decoded for it.

Parent and worker each hold one: the worker's says what the next prompt follows, the parent's survives the worker.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from promptd.chat import Message, Tool

TOKEN_CODE = "i"
"""Typecode of `array` for llama.cpp's 32-bit tokens."""

_COMPARE_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Turn:
    """Messages and the assistant's reply to them.

    In tokens, the history after a turn is the first `kept` tokens of the history before it, followed by `tokens`
    (32-bit, native order): the rest of the prompt and the reply as it was generated. `exact` is false where these
    tokens say more than `reply` does, because the reply was cut inside a token.
    """

    messages: tuple[Message, ...]
    reply: str
    kept: int
    tokens: bytes
    exact: bool


@dataclass(slots=True)
class Transcript:
    """The turns of one conversation, oldest first, after its pinned system messages."""

    system: tuple[Message, ...] = ()
    """Messages that are never dropped."""
    opened: float = 0.0
    """Wall-clock seconds; what a chat template sees as today, so that the past reads the same tomorrow."""
    tools: tuple[Tool, ...] = ()
    """What the model is told it may call."""
    base: bytes = b""
    """The token history before the first turn: empty until turns were dropped."""
    turns: list[Turn] = field(default_factory=list)

    def history(self) -> array[int]:
        """Return all tokens of the conversation."""
        tokens = array(TOKEN_CODE, self.base)
        for turn in self.turns:
            del tokens[turn.kept :]
            tokens.frombytes(turn.tokens)
        return tokens

    def messages(self) -> list[Message]:
        """Return the whole conversation as text."""
        return [*self.system, *spoken(self.turns)]

    def commit(self, turn: Turn, dropped: int) -> None:
        """Append `turn`, whose prompt left out the first `dropped` turns."""
        self.drop(dropped)
        self.turns.append(turn)

    def drop(self, turns: int) -> None:
        """Forget the first `turns` turns, except system messages in them."""
        if turns:
            dropped = Transcript(base=self.base, turns=self.turns[:turns])
            self.base = dropped.history().tobytes()
            self.system = (*self.system, *system_messages(dropped.turns))
            del self.turns[:turns]

    def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns."""
        if turns:
            del self.turns[-turns:]

    def fork(self) -> Transcript:
        """Return an equal transcript that goes its own way."""
        return replace(self, turns=list(self.turns))


def spoken(turns: Iterable[Turn]) -> list[Message]:
    """Return the messages and replies of `turns` in order."""
    return [message for turn in turns for message in (*turn.messages, Message(role="assistant", content=turn.reply))]


def system_messages(turns: Iterable[Turn]) -> tuple[Message, ...]:
    """Return the system messages in `turns`."""
    return tuple(message for turn in turns for message in turn.messages if message.role == "system")


def common_prefix(first: array[int], second: array[int]) -> int:
    """Return how many tokens the two histories begin with in common."""
    limit = min(len(first), len(second))
    start = 0
    while start < limit:
        end = min(start + _COMPARE_CHUNK, limit)
        if first[start:end] != second[start:end]:
            return next(index for index in range(start, end) if first[index] != second[index])
        start = end
    return limit
