"""The fence around llama.cpp's embeddings: a context that yields vectors in place of logits.

Checked against llama-cpp-python 0.3.36 (llama.h: llama_get_embeddings_seq, llama_get_embeddings_ith).
"""

from __future__ import annotations

from array import array

import llama_cpp.llama_cpp as _llama

from promptd.engine.llama import Batch, LlamaError, Model, last_error

POOLING_MODEL, POOLING_NONE, POOLING_MEAN, POOLING_CLS, POOLING_LAST = -1, 0, 1, 2, 3
"""llama.h, enum llama_pooling_type; -1 is what the model says."""


class EmbeddingContext:
    """One llama_context with embeddings on, for one text at a time."""

    def __init__(self, model: Model, *, tokens: int, pooling: int, threads: int, offload: bool) -> None:
        """Allocate room for texts of `tokens` tokens; raises LlamaError."""
        parameters = _llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = tokens
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = True
        parameters.pooling_type = pooling
        parameters.offload_kqv = parameters.op_offload = offload
        self.asked = pooling
        """The pooling it was made for."""
        self._model = model
        self._size = int(_llama.llama_model_n_embd(model.handle))
        self._batch = Batch(tokens)
        self._handle = _llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise LlamaError(last_error() or "llama.cpp does not say why")
        self._memory = _llama.llama_get_memory(self._handle)
        self._last = 0

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _llama.llama_free(self._handle)
            self._handle = None

    @property
    def pooling(self) -> int:
        """The pooling that is in force."""
        return int(_llama.llama_pooling_type(self._handle))

    def clear(self) -> None:
        """Forget the text."""
        if self._memory:
            _llama.llama_memory_clear(self._memory, False)

    def decode(self, tokens: array[int], position: int, *, output: bool) -> None:
        """Take the next tokens of the text; raises LlamaError."""
        self._batch.clear()
        self._last = self._batch.add(tokens, position, 0, output=output)
        status = _llama.llama_decode(self._handle, self._batch.batch)
        if status:
            raise LlamaError(last_error() or f"llama_decode returned {status}")

    def vector(self) -> array[float]:
        """Return the embedding of the text: pooled, or that of its last token where nothing is pooled."""
        if self.pooling == POOLING_NONE:
            pointer = _llama.llama_get_embeddings_ith(self._handle, self._last)
        else:
            pointer = _llama.llama_get_embeddings_seq(self._handle, 0)
        if not pointer:
            raise LlamaError("it gave no embedding")
        return array("f", pointer[: self._size])
