"""The fence around llama.cpp's grammars and its candidate arrays.

Checked against llama-cpp-python 0.3.36 (src/llama-grammar.cpp, common/sampling.cpp of the llama.cpp it vendors).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from promptd.engine.llama import Context, LlamaError, Vocabulary, last_error
from promptd.engine.llama_bindings import bindings as _llama
from promptd.engine.llama_samplers import SamplerChain

ROOT = b"root"
"""The rule a grammar begins with."""

_ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data of llama.h"""


class Candidates:
    """The tokens that may come next, with their logits, in the form samplers work on; reused from token to token."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._rows = np.zeros(n_vocab, dtype=_ROW)
        self._array = _llama.llama_token_data_array()

    def fill(self, context: Context, index: int) -> None:
        """Take all tokens with the logits of batch index `index` of the last step."""
        pointer = _llama.llama_get_logits_ith(context.handle, index)
        self._set(np.ctypeslib.as_array(pointer, shape=self._ids.shape))

    def fill_equal(self) -> None:
        """Take all tokens, each as likely as any other."""
        self._set(np.zeros(len(self._ids), dtype=np.float32))

    def apply(self, chain: SamplerChain) -> int:
        """Let a chain choose; return the token it chose, which it has not accepted."""
        _llama.llama_sampler_apply(chain.handle, ctypes.byref(self._array))
        return int(self._array.data[self._array.selected].id)

    @property
    def any_left(self) -> bool:
        """Whether a sampler has left any token possible."""
        return bool(np.isfinite(self._rows["logit"]).any())

    @property
    def array(self) -> Any:
        """The C structure."""
        return self._array

    def _set(self, logits: Any) -> None:
        self._rows["id"] = self._ids
        self._rows["logit"] = logits
        self._rows["p"] = 0
        self._array.data = self._rows.ctypes.data_as(_llama.llama_token_data_p)
        self._array.size = len(self._rows)
        self._array.selected = -1
        self._array.sorted = False


class Grammar:
    """A GBNF grammar and how far a reply has come in it."""

    def __init__(self, vocabulary: Vocabulary, text: bytes) -> None:
        """Parse `text`; raises LlamaError. A hostile one can take any time and memory: `grammar.check` goes before."""
        last_error()
        self._handle = _llama.llama_sampler_init_grammar(vocabulary.handle, text, ROOT)
        if not self._handle:
            raise LlamaError(last_error() or "it cannot be parsed")
        self._one = (_llama.llama_token_data * 1)()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _llama.llama_sampler_free(self._handle)
            self._handle = None

    def mask(self, candidates: Candidates) -> None:
        """Make every token impossible that the grammar does not allow next."""
        _llama.llama_sampler_apply(self._handle, ctypes.byref(candidates.array))

    def allows(self, token: int) -> bool:
        """Return whether `token` may come next."""
        self._one[0].id, self._one[0].logit, self._one[0].p = token, 1.0, 0.0
        array = _llama.llama_token_data_array(self._one, 1, -1, False)
        _llama.llama_sampler_apply(self._handle, ctypes.byref(array))
        return bool(self._one[0].logit != float("-inf"))

    def accept(self, token: int) -> None:
        """Go on with `token`. llama.cpp ends the process for one that the grammar does not allow."""
        _llama.llama_sampler_accept(self._handle, token)
