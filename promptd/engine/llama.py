"""The fence around llama.cpp: models, vocabularies, batches and contexts; plain Python values go in and come out.

Only this file and those named llama_*.py beside it import llama_cpp, and only the worker process imports them. Checked
against llama-cpp-python 0.3.36 (llama.cpp 0.5.0-dev of 2026-08).
"""

from __future__ import annotations

import ctypes
import re
from array import array
from collections import deque
from functools import cached_property
from pathlib import Path
from typing import Any

from promptd.engine.llama_bindings import bindings as _llama
from promptd.engine.transcript import TOKEN_CODE

_LOG_LINES = 64
_LEVEL_ERROR = 4
"""ggml.h, enum ggml_log_level (the comment in the bindings has an older numbering)."""

ATTR_UNKNOWN: int = _llama.LLAMA_TOKEN_ATTR_UNKNOWN
ATTR_CONTROL: int = _llama.LLAMA_TOKEN_ATTR_CONTROL
ATTR_USER_DEFINED: int = _llama.LLAMA_TOKEN_ATTR_USER_DEFINED
ATTR_LSTRIP: int = _llama.LLAMA_TOKEN_ATTR_LSTRIP
ATTR_RSTRIP: int = _llama.LLAMA_TOKEN_ATTR_RSTRIP

ALL_LAYERS = -1
"""`n_gpu_layers` that offloads the whole model."""

_OUTPUTS = 32
"""Tokens of a step that can yield logits however few sequences there are: guesses are verified by them."""

_PIECE_BYTES = 256
"""Room for one token's text; llama.cpp says how much more it needs when a token is longer."""


class LlamaError(Exception):
    """llama.cpp refused; the message is its own last error line, cleaned."""


_log: deque[str] = deque(maxlen=_LOG_LINES)


@_llama.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, user_data: object) -> None:
    if level == _LEVEL_ERROR:
        _log.append(text.decode("utf-8", "replace").strip())


def start() -> None:
    """Initialise llama.cpp's backends and take over its log; once per process."""
    _llama.llama_log_set(_on_log, ctypes.c_void_p(0))
    _llama.llama_backend_init()


def last_error() -> str:
    """Return what llama.cpp last logged as errors, without its function names; empty when it logged none."""
    lines = [re.sub(r"^(?:[\w:~]+: )+(?:error loading model: )?", "", line) for line in _log]
    _log.clear()
    causes = dict.fromkeys(line.rstrip(".") for line in lines if line and "failed to load model" not in line)
    return "; ".join(list(causes)[:2])


def commit() -> str:
    """Return the commit of the ggml in use."""
    function = _llama._lib.ggml_commit  # ggml.h; the bindings lack it
    function.restype = ctypes.c_char_p
    return str(function().decode("ascii", "replace"))


def supports_gpu_offload() -> bool:
    """Return whether this build of llama.cpp has a GPU backend that works here."""
    return bool(_llama.llama_supports_gpu_offload())


def devices() -> tuple[str, ...]:
    """Return the names of llama.cpp's backend devices."""
    library = _llama._lib  # ggml-backend.h; the bindings lack these four functions
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_name.restype = ctypes.c_char_p
    names = (
        library.ggml_backend_dev_name(library.ggml_backend_dev_get(index))
        for index in range(library.ggml_backend_dev_count())
    )
    return tuple(name.decode() for name in names)


class Vocabulary:
    """The tokens of a model."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.size: int = _llama.llama_vocab_n_tokens(handle)
        self.bos: int = _llama.llama_vocab_bos(handle)
        self.eos: int = _llama.llama_vocab_eos(handle)
        self.add_bos = bool(_llama.llama_vocab_get_add_bos(handle))
        self._ends: dict[int, bool] = {}
        self._pieces: dict[int, bytes] = {}
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)

    @property
    def handle(self) -> Any:
        """The C pointer."""
        return self._handle

    @cached_property
    def ends(self) -> array[int]:
        """The tokens that end a turn."""
        return array(TOKEN_CODE, filter(self.is_end, range(self.size)))

    def text(self, token: int) -> str:
        """Return how the vocabulary spells `token`; empty for -1, the absent token."""
        if token < 0:
            return ""
        spelt: bytes = _llama.llama_vocab_get_text(self._handle, token)
        return spelt.decode("utf-8", "replace")

    @cached_property
    def special(self) -> list[tuple[int, str, int]]:
        """(token, text, attributes) of the tokens llama.cpp partitions text on before it tokenises
        (llama-vocab.cpp).
        """
        mask = ATTR_CONTROL | ATTR_USER_DEFINED | ATTR_UNKNOWN
        attributes = ((token, _llama.llama_vocab_get_attr(self._handle, token)) for token in range(self.size))
        return [(token, self.text(token), flags) for token, flags in attributes if flags & mask]

    def is_end(self, token: int) -> bool:
        """Return whether `token` ends a turn."""
        end = self._ends.get(token)
        if end is None:
            end = self._ends[token] = bool(_llama.llama_vocab_is_eog(self._handle, token))
        return end

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> array[int]:
        """Return the tokens of `text`, as llama_tokenize gives them."""
        return self.tokenize_bytes(text.encode(), add_special=add_special, parse_special=parse_special)

    def tokenize_bytes(self, data: bytes, *, add_special: bool, parse_special: bool) -> array[int]:
        """Return the tokens of text that need not be UTF-8, as llama_tokenize gives them."""
        room = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count: int = _llama.llama_tokenize(self._handle, data, len(data), buffer, room, add_special, parse_special)
            if count >= 0:
                return array(TOKEN_CODE, memoryview(buffer).cast("B")[: count * 4].tobytes())
            if room == -count:
                raise LlamaError("the tokenizer gave no tokens")
            room = -count

    def piece(self, token: int) -> bytes:
        """Return the bytes `token` stands for in a reply: none for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token, special=False)
        return piece

    def spelling(self, token: int) -> bytes:
        """Return the bytes `token` is spelt with: as `piece`, and control tokens by their text."""
        return self._piece(token, special=True)

    def _piece(self, token: int, *, special: bool) -> bytes:
        size: int = _llama.llama_token_to_piece(self._handle, token, self._buffer, len(self._buffer), 0, special)
        if size < 0:
            self._buffer = ctypes.create_string_buffer(-size)
            return self._piece(token, special=special)
        return self._buffer.raw[:size]


class Model:
    """A loaded GGUF file."""

    def __init__(self, path: Path, *, gpu_layers: int) -> None:
        """Load `path`; raises LlamaError."""
        parameters = _llama.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        self._handle = _llama.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._handle:
            raise LlamaError(last_error() or "llama.cpp does not say why")
        self.vocabulary = Vocabulary(_llama.llama_model_get_vocab(self._handle))

    @property
    def handle(self) -> Any:
        """The C pointer, for Context."""
        return self._handle

    @property
    def n_ctx_train(self) -> int:
        """Tokens the model was trained to attend to."""
        return int(_llama.llama_model_n_ctx_train(self._handle))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(_llama.llama_model_size(self._handle))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(_llama.llama_model_n_params(self._handle))

    @property
    def generates(self) -> bool:
        """Whether the model continues text by itself: an encoder or a diffusion model does not."""
        return bool(_llama.llama_model_has_decoder(self._handle)) and not (
            _llama.llama_model_has_encoder(self._handle) or _llama.llama_model_is_diffusion(self._handle)
        )

    @property
    def description(self) -> str:
        """For example `llama 135M Q4_1`."""
        buffer = ctypes.create_string_buffer(128)
        _llama.llama_model_desc(self._handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def template(self) -> str | None:
        """The chat template in the file."""
        text: bytes | None = _llama.llama_model_chat_template(self._handle, None)
        return text.decode("utf-8", "replace") if text else None

    def metadata(self, key: str) -> str | None:
        """Return a GGUF value as text."""
        buffer = ctypes.create_string_buffer(128)
        size = _llama.llama_model_meta_val_str(self._handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps one state for a whole sequence, of which no part can be copied or cut."""
        return bool(_llama.llama_model_is_recurrent(self._handle) or _llama.llama_model_is_hybrid(self._handle))

    @property
    def kv_cell_bytes(self) -> int:
        """Bytes one token takes in a 16-bit KV cache, if every layer attends."""
        architecture = self.metadata("general.architecture")
        heads = max(1, _llama.llama_model_n_head(self._handle))
        default = _llama.llama_model_n_embd(self._handle) // heads
        lengths = [
            int(text)
            if (text := self.metadata(f"{architecture}.attention.{name}_length")) and text.isdigit()
            else default
            for name in ("key", "value")
        ]
        layers = _llama.llama_model_n_layer(self._handle)
        return int(layers * max(1, _llama.llama_model_n_head_kv(self._handle)) * sum(lengths) * 2)


class Batch:
    """The tokens of one llama_decode, in memory that is reused from step to step."""

    def __init__(self, capacity: int) -> None:
        self._tokens = (ctypes.c_int32 * capacity)()
        self._positions = (ctypes.c_int32 * capacity)()
        self._sequences = (ctypes.c_int32 * capacity)()
        self._outputs = (ctypes.c_int8 * capacity)()
        self._counts = (ctypes.c_int32 * capacity)(*([1] * capacity))
        pointer = ctypes.POINTER(ctypes.c_int32)
        base = ctypes.addressof(self._sequences)
        self._pointers = (pointer * capacity)(*(ctypes.cast(base + 4 * index, pointer) for index in range(capacity)))
        self.batch = _llama.llama_batch(
            0, self._tokens, None, self._positions, self._counts, self._pointers, self._outputs
        )

    def __len__(self) -> int:
        return int(self.batch.n_tokens)

    def clear(self) -> None:
        """Make the batch empty."""
        self.batch.n_tokens = 0

    def add(self, tokens: array[int], position: int, sequence: int, *, output: bool) -> int:
        """Append consecutive `tokens` of a sequence; return the index of the last, which yields logits if `output`."""
        start = self.batch.n_tokens
        count = len(tokens)
        end = start + count
        self._tokens[start:end] = [*tokens]
        self._positions[start:end] = [*range(position, position + count)]
        self._sequences[start:end] = [sequence] * count
        self._outputs[start:end] = [0] * count
        if output:
            self._outputs[end - 1] = 1
        self.batch.n_tokens = end
        return int(end - 1)


class Context:
    """One llama_context: a unified KV cache shared by many sequences, and the compute buffers of a step."""

    def __init__(
        self, model: Model, *, cells: int, sequences: int, step_tokens: int, threads: int, offload: bool
    ) -> None:
        """Allocate; raises LlamaError."""
        parameters = _llama.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = parameters.n_ubatch = max(step_tokens, sequences)  # llama.cpp aborts if it is less
        parameters.n_seq_max = sequences
        self.outputs = max(sequences, min(step_tokens, _OUTPUTS))
        """Most tokens of a step that yield logits."""
        parameters.n_outputs_max = self.outputs
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        parameters.kv_unified = True
        parameters.offload_kqv = offload
        parameters.op_offload = offload
        self._model = model
        self._handle = _llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise LlamaError(last_error() or "llama.cpp does not say why")
        self._memory = _llama.llama_get_memory(self._handle)

    @property
    def handle(self) -> Any:
        """The C pointer, for SamplerChain."""
        return self._handle

    @property
    def cells(self) -> int:
        """Cells of the KV cache: llama.cpp rounds what it was asked for."""
        return int(_llama.llama_n_ctx(self._handle))

    def set_threads(self, threads: int) -> None:
        """Compute the steps from now on by so many threads."""
        _llama.llama_set_n_threads(self._handle, threads, threads)

    def decode(self, batch: Batch) -> None:
        """Run one step; raises LlamaError, after which the KV cache is undefined for the sequences in the batch."""
        status = _llama.llama_decode(self._handle, batch.batch)
        if status:
            raise LlamaError(last_error() or f"llama_decode returned {status}")

    @property
    def divisible(self) -> bool:
        """Whether a part of a sequence's cells can be shared or removed."""
        return not self._model.recurrent

    def remove(self, sequence: int, start: int = 0) -> bool:
        """Remove a sequence's cells from position `start` on; false, with nothing removed, where the model can only
        remove all.
        """
        return bool(_llama.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def copy(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Let `target` share the cells of `source`: those of positions `start` to `end`, or all."""
        _llama.llama_memory_seq_cp(self._memory, source, target, start, end)

    def save(self, sequence: int) -> bytearray:
        """Return the cells of a sequence as bytes; none where llama.cpp cannot."""
        data = bytearray(_llama.llama_state_seq_get_size(self._handle, sequence))
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        written = _llama.llama_state_seq_get_data(self._handle, buffer, len(data), sequence)
        return data if written == len(data) else data[:written]

    def restore(self, sequence: int, data: bytes | bytearray) -> bool:
        """Give a sequence without cells those of `save`; false, with none given, when llama.cpp refuses.

        llama.cpp trusts the bytes: they must be known to be its own.
        """
        mutable = data if isinstance(data, bytearray) else bytearray(data)
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(mutable)
        if _llama.llama_state_seq_set_data(self._handle, buffer, len(data), sequence):
            return True
        self.remove(sequence)
        return False

    def clear(self) -> None:
        """Remove all sequences."""
        _llama.llama_memory_clear(self._memory, False)
