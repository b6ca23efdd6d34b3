"""The fence around llama.cpp's samplers.

Checked against llama-cpp-python 0.3.36 (llama.h, common/sampling.cpp of the llama.cpp it vendors).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from promptd.engine.llama import Context, LlamaError, Vocabulary, last_error
from promptd.engine.llama_bindings import bindings as _llama

_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
"""Where a repetition begins anew (common_params_sampling.dry_sequence_breakers)."""

_MIROSTAT_ESTIMATE = 100
"""Tokens Mirostat 1 estimates from (common/sampling.cpp)."""


class SamplerChain:
    """A llama_sampler chain; each `add_` appends one sampler."""

    def __init__(self) -> None:
        parameters = _llama.llama_sampler_chain_default_params()
        parameters.no_perf = True
        self._handle = _llama.llama_sampler_chain_init(parameters)

    def __del__(self) -> None:
        if self._handle:
            _llama.llama_sampler_free(self._handle)
            self._handle = None

    @property
    def handle(self) -> Any:
        """The C pointer."""
        return self._handle

    def _add(self, sampler: Any) -> None:
        if not sampler:
            raise LlamaError(last_error() or "llama.cpp refused a sampler")
        _llama.llama_sampler_chain_add(self._handle, sampler)

    def add_bias(self, n_vocab: int, pairs: Sequence[tuple[int, float]]) -> None:
        """Add to the logits of some tokens; -inf makes one impossible."""
        biases = (_llama.llama_logit_bias * len(pairs))(*pairs)
        self._add(_llama.llama_sampler_init_logit_bias(n_vocab, len(pairs), biases))

    def add_penalties(
        self, n_vocab: int, last: int, repeat: float, frequency: float = 0.0, presence: float = 0.0
    ) -> None:
        """Make the last `last` tokens less likely: by a factor, by how often they came, and by whether they did."""
        self._add(_llama.llama_sampler_init_penalties(n_vocab, last, repeat, frequency, presence))

    def add_dry(self, vocabulary: Vocabulary, multiplier: float, base: float, allowed: int, last: int) -> None:
        """Lower what would go on repeating a sequence of the last `last` tokens that is longer than `allowed`."""
        breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
        self._add(
            _llama.llama_sampler_init_dry(
                vocabulary.handle, multiplier, base, allowed, last, breakers, len(_DRY_BREAKERS)
            )
        )

    def add_top_k(self, k: int) -> None:
        """Keep the `k` most likely tokens."""
        self._add(_llama.llama_sampler_init_top_k(k))

    def add_typical(self, p: float, keep: int) -> None:
        """Keep the tokens closest to the expected surprise that together have probability `p`, and at least `keep`."""
        self._add(_llama.llama_sampler_init_typical(p, keep))

    def add_top_p(self, p: float, keep: int = 1) -> None:
        """Keep the most likely tokens that together have probability `p`, and at least `keep`."""
        self._add(_llama.llama_sampler_init_top_p(p, keep))

    def add_min_p(self, p: float, keep: int = 1) -> None:
        """Keep tokens at least `p` times as likely as the likeliest, and at least `keep`."""
        self._add(_llama.llama_sampler_init_min_p(p, keep))

    def add_xtc(self, p: float, threshold: float, keep: int, seed: int) -> None:
        """With probability `p`, remove all tokens likelier than `threshold` but the last of them."""
        self._add(_llama.llama_sampler_init_xtc(p, threshold, keep, seed))

    def add_temperature(self, temperature: float) -> None:
        """Divide all logits by `temperature`."""
        self._add(_llama.llama_sampler_init_temp(temperature))

    def add_dynamic_temperature(self, temperature: float, spread: float, exponent: float) -> None:
        """Divide all logits by a temperature within `spread` of this one, the higher the less sure the model is."""
        self._add(_llama.llama_sampler_init_temp_ext(temperature, spread, exponent))

    def add_mirostat(self, version: int, n_vocab: int, seed: int, tau: float, eta: float) -> None:
        """Draw so that the surprise stays near `tau`."""
        if version == 1:
            self._add(_llama.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_ESTIMATE))
        else:
            self._add(_llama.llama_sampler_init_mirostat_v2(seed, tau, eta))

    def add_dist(self, seed: int) -> None:
        """Draw from the distribution that is left."""
        self._add(_llama.llama_sampler_init_dist(seed))

    def add_greedy(self) -> None:
        """Take the likeliest token."""
        self._add(_llama.llama_sampler_init_greedy())

    def accept(self, token: int) -> None:
        """Tell the chain of a token that was not sampled by it."""
        _llama.llama_sampler_accept(self._handle, token)

    def sample(self, context: Context, index: int) -> int:
        """Choose the token that follows batch index `index` of the last step, and accept it."""
        return int(_llama.llama_sampler_sample(self._handle, context.handle, index))
