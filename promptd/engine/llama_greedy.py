"""The fence around llama.cpp's logits for replies that take the likeliest token: found where the logits lie, not in the
array of candidates that a sampler chain fills with the whole vocabulary for every token.

Checked against llama-cpp-python 0.3.36 (llama_sampler_sample, llama_sampler_greedy_apply, llama_get_logits_ith).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from promptd.engine.llama import Context
from promptd.engine.llama_bindings import bindings as _llama

if TYPE_CHECKING:
    import numpy.typing as npt


class Likeliest:
    """Finds the likeliest token: the first of several, as llama.cpp's greedy sampler does."""

    def __init__(self, n_vocab: int, biases: Sequence[tuple[int, float]]) -> None:
        """`biases` are added to the logits of some tokens, each of which is named once."""
        self._n_vocab = n_vocab
        self._biased = np.array([token for token, _ in biases], dtype=np.intp)
        self._bias = np.array([bias for _, bias in biases], dtype=np.float32)

    def find(self, context: Context, index: int) -> int | None:
        """Return the token after batch index `index` of the last step; None where a logit is no number."""
        row = _llama.llama_get_logits_ith(context.handle, index)
        logits = _array(ctypes.addressof(row.contents), self._n_vocab)
        if not len(self._biased):
            return _likeliest(logits)
        before = logits[self._biased]
        logits[self._biased] = before + self._bias
        best = _likeliest(logits)
        logits[self._biased] = before  # who asks for probabilities is told those of the model
        return best


def _likeliest(logits: npt.NDArray[np.float32]) -> int | None:
    best = int(logits.argmax())
    return None if math.isnan(logits[best]) else best


@lru_cache(maxsize=512)
def _array(address: int, size: int) -> npt.NDArray[np.float32]:
    """Return the floats at an address that llama.cpp has given; to make the array takes as long as to search it."""
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
