"""The plain values of a conversation, which every floor speaks: messages, options, replies and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `content` is plain text in which control tokens mean nothing."""

    role: Role
    content: str


class StopReason(Enum):
    """Why a reply ended; values are the cases of `promptd:prompt/chat.stop-reason`."""

    END_OF_TURN = "end-of-turn"
    STOP_SEQUENCE = "stop-sequence"
    MAX_TOKENS = "max-tokens"
    CONTEXT_FULL = "context-full"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn: `prompt` counts all tokens before the reply, of which `cached` were not decoded again."""

    prompt: int
    cached: int
    generated: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.generated + other.generated)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.prompt - other.prompt, self.cached - other.cached, self.generated - other.generated)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply, without special tokens."""

    text: str
    stop_reason: StopReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How one conversation answers; None means the graph's own setting."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    grammar: str | None = None
    """GBNF that the reply keeps to."""
    json_schema: str | None = None
    """A JSON schema, as text, that the reply keeps to; it goes before a grammar."""
