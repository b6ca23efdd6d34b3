"""What the parent and the worker process say to each other: commands one way, events the other."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from promptd.chat import Message, StopReason, TokenLogprob, Usage
from promptd.engine.adapters import Adapters
from promptd.engine.options import Sampling
from promptd.engine.statistics import EngineInfo, EngineStats
from promptd.engine.transcript import Transcript, Turn

MAX_TOKEN_CHARACTERS = 128
"""Hardly a token is longer, so a text with more than this for each token of the context is refused without being
tokenised, which would take seconds.
"""

POOLING_MODEL_OR_MEAN = -2
"""A pooling of `Embed` that llama.h does not have: the mean, unless the model was made for another."""
MAX_EMBED_TOKENS = 2048
"""Most tokens one embedding is made of; llama.cpp's own batch size."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first frame: what to load, and how to use the machine."""

    path: str
    target: Literal["cpu", "gpu", "auto"]
    context: int | None
    kv_tokens: int | None
    max_sequences: int
    step_tokens: int
    threads: int | None
    queue: int
    speculation: Literal["auto", "on", "off"]
    draft: str | None
    """The file of a small model that guesses for this one."""
    weights: dict[str, float]
    kv_quota: float | None
    kv_quotas: dict[str, float]
    """See quota.py."""
    spill_memory: int
    spill_disk: int
    spill_directory: str | None
    """An empty directory that only this worker uses."""
    kv_bytes: int | None = None
    """Most bytes the KV cache may take, whatever `kv_tokens` says; None is no limit."""


def with_spill_directory(start: Start, directory: str) -> Start:
    """Return `start` as one worker gets it."""
    return msgspec.structs.replace(start, spill_directory=directory)


class Share(msgspec.Struct, frozen=True, tag=True):
    """Let guests share the model in another way than `Start` said."""

    weights: dict[str, float]
    kv_quota: float | None
    kv_quotas: dict[str, float]


class Open(msgspec.Struct, frozen=True, tag=True):
    """A conversation, new or with its past from before the worker was restarted."""

    conversation: int
    guest: str
    template: Literal["auto", "none"]
    overflow: Literal["shift", "error"]
    transcript: Transcript
    public: tuple[Message, ...] | None = None
    """System messages that, with the template around them, may be shared in the KV cache with other guests; None is
    nothing at all.
    """
    adapters: Adapters = ()


class Send(msgspec.Struct, frozen=True, tag=True):
    """One turn: append `messages` and make the reply. `deadline` is a value of the machine-wide monotonic clock."""

    call: int
    conversation: int
    messages: tuple[Message, ...]
    sampling: Sampling
    deadline: float | None


class Follow(msgspec.Struct, frozen=True, tag=True):
    """Tell the text of a conversation's reply as it is made, not only at its end."""

    call: int


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop making a reply."""

    call: int


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Make conversation `copy` with the past of `conversation`."""

    conversation: int
    copy: int


class Rewind(msgspec.Struct, frozen=True, tag=True):
    """Forget the last turns of a conversation."""

    conversation: int
    turns: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Forget a conversation."""

    conversation: int


class Count(msgspec.Struct, frozen=True, tag=True):
    """Tell how many tokens a text is."""

    call: int
    text: str


class ReadStats(msgspec.Struct, frozen=True, tag=True):
    """Tell the counters."""

    call: int


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """Tell the tokens of a text, which need not be UTF-8."""

    call: int
    data: bytes
    add_special: bool
    parse_special: bool


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Make the reply to bare tokens (32-bit, native order), outside of any conversation."""

    call: int
    guest: str
    tokens: bytes
    sampling: Sampling
    reverse_prompt: bytes
    """The reply ends with it; nothing is none."""
    context: int | None
    """Tokens of prompt and reply; None is as many as a conversation can hold."""
    ahead: int | None
    """The reply pauses when it is so many tokens ahead of what was taken of it; None never pauses it."""
    deadline: float | None
    adapters: Adapters = ()


class Take(msgspec.Struct, frozen=True, tag=True):
    """So many more tokens of a reply to bare tokens were taken."""

    call: int
    tokens: int


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Make the embedding of tokens (32-bit, native order)."""

    call: int
    tokens: bytes
    pooling: int
    """llama.h, enum llama_pooling_type; -1 is the model's own (where it has none, its last token's vector is taken),
    and POOLING_MODEL_OR_MEAN.
    """
    deadline: float | None


class LoadAdapters(msgspec.Struct, frozen=True, tag=True):
    """Load adapters, so that what is wrong with them is told now."""

    call: int
    adapters: Adapters


Command = (
    Start
    | Share
    | Open
    | Send
    | Follow
    | Cancel
    | Fork
    | Rewind
    | Close
    | Count
    | ReadStats
    | Tokenize
    | Generate
    | Take
    | Embed
    | LoadAdapters
)


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    info: EngineInfo


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; the worker exits. `code` is a name of errors.ERROR_CODES."""

    code: str
    sentence: str


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """A turn has been tokenised and queued."""

    call: int


class Pieces(msgspec.Struct, frozen=True, tag=True):
    """What one step added to the replies that are followed, or all text of one that is not: (call, text) pairs."""

    pieces: tuple[tuple[int, str], ...]


class Scored(msgspec.Struct, frozen=True, tag=True):
    """What one step added to a reply whose tokens' probabilities were asked for."""

    call: int
    text: str
    logprobs: tuple[TokenLogprob, ...]


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A reply has ended. `turn` is what the conversation now ends with, None when the reply was cancelled and
    forgotten.

    `dropped` turns were forgotten at the conversation's beginning to make room.
    """

    call: int
    stop_reason: StopReason
    usage: Usage
    turn: Turn | None
    dropped: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A call failed and changed nothing. `code` is a name of errors.ERROR_CODES."""

    call: int
    code: str
    sentence: str


class Counted(msgspec.Struct, frozen=True, tag=True):
    """The answer to Count."""

    call: int
    tokens: int


class StatsRead(msgspec.Struct, frozen=True, tag=True):
    """The answer to ReadStats."""

    call: int
    stats: EngineStats


class RawEnd(Enum):
    """Why a reply to bare tokens ended."""

    END_OF_GENERATION = "end-of-generation"
    REVERSE_PROMPT = "reverse-prompt"
    MAX_TOKENS = "max-tokens"
    CONTEXT_FULL = "context-full"
    CANCELLED = "cancelled"


class AdaptersLoaded(msgspec.Struct, frozen=True, tag=True):
    """The answer to LoadAdapters."""

    call: int


class Tokenized(msgspec.Struct, frozen=True, tag=True):
    """The answer to Tokenize."""

    call: int
    tokens: bytes


class RawPieces(msgspec.Struct, frozen=True, tag=True):
    """The tokens one step added to replies to bare tokens: (call, bytes) pairs."""

    pieces: tuple[tuple[int, bytes], ...]


class RawEnded(msgspec.Struct, frozen=True, tag=True):
    """A reply to bare tokens has ended, with a last token unless it was cancelled."""

    call: int
    piece: bytes | None
    end: RawEnd
    usage: Usage


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The answer to Embed: 32-bit floats in native order."""

    call: int
    vector: bytes


Event = (
    Ready
    | LoadFailed
    | Accepted
    | Pieces
    | Scored
    | Ended
    | Failed
    | Counted
    | StatsRead
    | Tokenized
    | RawPieces
    | RawEnded
    | Embedded
    | AdaptersLoaded
)
