"""The fence around llama.cpp's embeddings: a context that yields vectors in place of logits.

Checked against llama-cpp-python 0.3.36 (llama.h: llama_get_embeddings, llama_get_embeddings_seq; with embeddings on,
llama_context::decode makes every token of a batch an output).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from promptd.engine.llama import Batch, LlamaError, Model, last_error
from promptd.engine.llama_bindings import bindings as _llama

POOLING_MODEL, POOLING_NONE, POOLING_MEAN, POOLING_CLS, POOLING_LAST = -1, 0, 1, 2, 3
"""llama.h, enum llama_pooling_type; -1 is what the model says."""

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Vector: TypeAlias = "npt.NDArray[np.floating]"


def own_pooling(model: Model) -> int | None:
    """Return the pooling a model was made for; None where it says nothing of that."""
    text = model.metadata(f"{model.metadata('general.architecture')}.pooling_type")
    return int(text) if text is not None and text.isdigit() else None


def is_causal(model: Model) -> bool:
    """Return whether the model's tokens see only those before them."""
    return model.metadata(f"{model.metadata('general.architecture')}.attention.causal") != "false"


class EmbeddingContext:
    """One llama_context with embeddings on, for several texts at a time."""

    def __init__(
        self,
        model: Model,
        *,
        tokens: int,
        step_tokens: int,
        sequences: int,
        pooling: int,
        threads: int,
        offload: bool,
    ) -> None:
        """Allocate room for texts of `tokens` tokens together, `step_tokens` in each step; raises LlamaError."""
        parameters = _llama.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_batch = parameters.n_ubatch = max(step_tokens, sequences)  # llama.cpp aborts if it is less
        parameters.n_seq_max = sequences
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = True
        parameters.pooling_type = pooling
        parameters.offload_kqv = parameters.op_offload = offload
        self.pooling = pooling
        self._model = model
        self._size = int(_llama.llama_model_n_embd(model.handle))
        self._batch = Batch(parameters.n_batch)
        self._handle = _llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise LlamaError(last_error() or "llama.cpp does not say why")
        self._memory = _llama.llama_get_memory(self._handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _llama.llama_free(self._handle)
            self._handle = None

    @property
    def threads(self) -> int:
        """Threads that compute a step."""
        return int(_llama.llama_n_threads(self._handle))

    def set_threads(self, threads: int) -> None:
        """Compute the steps from now on by so many threads."""
        _llama.llama_set_n_threads(self._handle, threads, threads)

    def remove(self, sequence: int) -> None:
        """Forget the tokens of a text."""
        if self._memory:
            _llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def decode(self, chunks: Sequence[tuple[array[int], int, int]]) -> None:
        """Take tokens, from a position on, of a sequence each; raises LlamaError."""
        self._batch.clear()
        for tokens, position, sequence in chunks:
            self._batch.add(tokens, position, sequence, output=True)
        status = _llama.llama_decode(self._handle, self._batch.batch)
        if status:
            raise LlamaError(last_error() or f"llama_decode returned {status}")

    def rows(self) -> Vector:
        """Return the vectors of the last step's tokens, in their order: an array of tokens by dimensions, valid until
        the next step.
        """
        pointer = _llama.llama_get_embeddings(self._handle)
        if not pointer:
            raise LlamaError("it gave no embeddings")
        import numpy as np  # not with the worker's start: few models make embeddings

        rows: Vector = np.ctypeslib.as_array(pointer, shape=(len(self._batch), self._size))
        return rows

    def pooled(self, sequence: int) -> Vector:
        """Return the vector llama.cpp has pooled of the last step's tokens of a sequence."""
        pointer = _llama.llama_get_embeddings_seq(self._handle, sequence)
        if not pointer:
            raise LlamaError("it gave no embedding")
        import numpy as np

        vector: Vector = np.ctypeslib.as_array(pointer, shape=(self._size,)).copy()
        return vector
