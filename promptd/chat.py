"""The plain values of a conversation, which every floor speaks: messages, options, replies and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may ask for to be called; whoever talks to the model calls it."""

    name: str
    description: str
    parameters: str
    """A JSON schema of its arguments, as text."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asked for."""

    id: str
    name: str
    arguments: str
    """A JSON object, as text."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `content` is plain text in which control tokens mean nothing."""

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    """What an assistant's message asks for beside its text."""
    call_id: str = ""
    """Which call a tool's message answers."""
    tool: str = ""
    """The name of the tool whose message it is."""


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
class TokenLogprob:
    """A token of a reply, or one that might have stood in its place, and how likely the model thought it.

    `data` is what it spells, which need not be whole characters. `logprob` is the natural logarithm of its probability
    by the model's own logits, before biases, penalties, temperature and grammars: what OpenAI and llama-server tell.
    """

    token: int
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens there, the likeliest first, as many as were asked for; they have no `top` of their own."""


class Piece(str):
    """A piece of the text of a reply whose tokens' probabilities were asked for; other replies' pieces are bare `str`.

    May be empty: at the end of a reply come those of tokens that spell nothing.
    """

    __slots__ = ("logprobs",)

    def __new__(cls, text: str, logprobs: tuple[TokenLogprob, ...]) -> Piece:
        """`logprobs` are of the tokens this text ends, which may have begun in the piece before."""
        piece = super().__new__(cls, text)
        piece.logprobs = logprobs
        return piece

    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply, without special tokens."""

    text: str
    stop_reason: StopReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of all tokens that have a part in `text`, where they were asked for."""


MAX_LOGPROBS = 20
"""Most alternatives to a token that are told, as OpenAI has it."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How one conversation answers; None means the graph's own setting."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    grammar: str | None = None
    """GBNF that the reply keeps to."""
    json_schema: str | None = None
    """A JSON schema, as text, that the reply keeps to; it goes before a grammar."""
    logit_bias: tuple[tuple[int, float], ...] | None = None
    """What is added to the logits of tokens, by number in the model's vocabulary; -100 all but bans, 100 all but forces
    one. InvalidArgument for a token the model does not have.
    """
    logprobs: int | None = None
    """So many of the likeliest tokens are told for each token of the reply, 0 to MAX_LOGPROBS; None tells nothing."""
