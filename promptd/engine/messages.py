"""What the parent and the worker process say to each other: typed messages in length-prefixed msgpack frames over a
socket pair.

The parent decodes nothing but these types, and no frame beyond `MAX_FRAME_BYTES`: a worker that a hostile model
file has taken over can lie about a reply, but not reach further.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import Generic, Literal, TypeVar

import msgspec

from promptd.chat import Message, StopReason, Usage
from promptd.engine.transcript import Transcript, Turn

MAX_FRAME_BYTES = 256 * 1024**2
"""Larger than any conversation that fits a context, small enough not to exhaust the reader."""

_LENGTH_BYTES = 4
_RECEIVE_BYTES = 256 * 1024

MAX_TOKEN_CHARACTERS = 128
"""Hardly a token is longer, so a text with more than this for each token of the context is refused without being
tokenised, which would take seconds.
"""


class Sampling(msgspec.Struct, frozen=True):
    """How the tokens of one reply are chosen; defaults are llama.cpp's own (common/common.h,
    common_params_sampling).
    """

    temperature: float = 0.8
    """0 is greedy."""
    top_k: int = 40
    """0 is off."""
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    """None draws one."""
    max_tokens: int | None = None
    """None is as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Where a turn of a conversation is cut; replies to bare tokens have a reverse prompt instead."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    """How far back the penalties look; -1 is the whole context."""
    typical_p: float = 1.0
    min_keep: int = 0
    mirostat: int = 0
    """0 is off; 1 and 2 take the place of all samplers but the temperature."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    ignore_end: bool = False
    """Never end of the model's own accord."""
    grammar: str = ""
    """GBNF the reply keeps to; nothing is no grammar."""
    json_schema: str = ""
    """A JSON schema the reply keeps to, before the grammar; nothing is none."""


class EngineInfo(msgspec.Struct, frozen=True):
    """What a loaded model is and how the worker runs it."""

    architecture: str
    description: str
    parameters: int
    model_bytes: int
    n_ctx_train: int
    n_vocab: int
    context: int
    """Tokens one conversation can hold."""
    kv_tokens: int
    kv_bytes: int
    has_template: bool
    template: str | None
    devices: tuple[str, ...]
    """Names of llama.cpp's backend devices, for example CPU, CUDA0."""
    device: Literal["CPU", "GPU"]
    gpu_offload: bool
    """Whether this build of llama.cpp can offload to a GPU at all."""
    threads: int
    warnings: tuple[str, ...]
    """Sentences for the operator."""
    llama_commit: str = ""
    """The commit of llama.cpp's ggml."""


class KVHolder(msgspec.Struct, frozen=True):
    """A conversation that holds KV cells."""

    conversation: int
    cells: int
    running: bool
    """Whether it is making a reply."""


class EngineStats(msgspec.Struct, frozen=True):
    """Counters since the worker started, and what it holds now."""

    worker_pid: int | None = None
    """None while no worker runs."""
    worker_starts: int = 0
    rss: int = 0
    """Resident bytes of the worker process."""
    prompt_tokens: int = 0
    """Tokens decoded in prefill."""
    cached_tokens: int = 0
    """Prompt tokens taken from the KV cache instead."""
    generated_tokens: int = 0
    steps: int = 0
    batch_width_sum: int = 0
    batch_widths: dict[int, int] = {}
    """Sequences in a step -> number of such steps."""
    turns: int = 0
    """Replies that ended and stand in their conversation."""
    evictions: int = 0
    preemptions: int = 0
    queue: int = 0
    running: int = 0
    resident: int = 0
    """Conversations with KV cells."""
    retired: int = 0
    """Closed conversations whose KV cells are kept for prompts that begin like them."""
    spilled: int = 0
    """Times a conversation's cells were saved when they had to leave the KV cache."""
    restored: int = 0
    """Times saved cells were put back instead of prefilled."""
    spill_memory: int = 0
    """Bytes of saved cells in memory."""
    spill_disk: int = 0
    """Bytes of saved cells in files."""
    sequences: int = 0
    """Conversations open."""
    kv_used: int = 0
    kv_total: int = 0
    kv_bytes: int = 0
    model_bytes: int = 0
    holders: tuple[KVHolder, ...] = ()


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
    weights: dict[str, float]
    spill_memory: int
    spill_disk: int
    spill_directory: str | None
    """An empty directory that only this worker uses."""
    kv_bytes: int | None = None
    """Most bytes the KV cache may take, whatever `kv_tokens` says; None is no limit."""


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


class Send(msgspec.Struct, frozen=True, tag=True):
    """One turn: append `messages` and make the reply. `deadline` is a value of the machine-wide monotonic clock."""

    call: int
    conversation: int
    messages: tuple[Message, ...]
    sampling: Sampling
    deadline: float | None


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


class Take(msgspec.Struct, frozen=True, tag=True):
    """So many more tokens of a reply to bare tokens were taken."""

    call: int
    tokens: int


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Make the embedding of tokens (32-bit, native order)."""

    call: int
    tokens: bytes
    pooling: int
    """llama.h, enum llama_pooling_type; -1 is the model's own."""
    deadline: float | None


Command = Start | Open | Send | Cancel | Fork | Rewind | Close | Count | ReadStats | Tokenize | Generate | Take | Embed


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
    """What one step added to the replies: (call, text) pairs."""

    pieces: tuple[tuple[int, str], ...]


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
    | Ended
    | Failed
    | Counted
    | StatsRead
    | Tokenized
    | RawPieces
    | RawEnded
    | Embedded
)

M = TypeVar("M")


class ProtocolError(Exception):
    """The other side sent something that is no message of ours."""


class Channel(Generic[M]):
    """One end of the socket pair: sends any message, receives messages of the types it was made for.

    `send` may be called by one thread while another receives; several senders need a lock of their own.
    """

    def __init__(self, connection: socket.socket, receives: type[M]) -> None:
        self._socket = connection
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(receives)
        self._buffer = bytearray()

    def send(self, message: Command | Event) -> None:
        """Write one frame; OSError when the other side is gone, ValueError when the message is too large."""
        payload = self._encoder.encode(message)
        if len(payload) > MAX_FRAME_BYTES:
            raise ValueError(f"a message of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}")
        self._socket.sendall(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)

    def receive(self, *, wait: bool = True) -> M | None:
        """Return the next message; None when there is none yet and `wait` is false.

        Raises EOFError when the other side has closed, ProtocolError for bytes that are no message.
        """
        while (message := self._take()) is None:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self._buffer += data
        return message

    def _take(self) -> M | None:
        """Return the first whole message in the buffer."""
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "little")
        if length > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        end = _LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        try:
            message = self._decoder.decode(memoryview(self._buffer)[_LENGTH_BYTES:end])
        except msgspec.MsgspecError as error:
            raise ProtocolError(str(error)) from error
        finally:
            del self._buffer[:end]
        return message
