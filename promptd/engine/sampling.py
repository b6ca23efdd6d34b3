"""The sampler chain of one reply: which of the model's next tokens is taken."""

from __future__ import annotations

import secrets
from array import array

from promptd.engine.llama import SamplerChain
from promptd.engine.messages import Sampling

PENALTY_TOKENS = 64
"""How far back the repeat penalty looks (llama.cpp's common_params_sampling.penalty_last_n)."""


def sampler_chain(sampling: Sampling, n_vocab: int, prompt: array[int]) -> SamplerChain:
    """Return a fresh chain in llama.cpp's order; the repeat penalty also sees the end of `prompt`.

    Samplers that would change nothing are left out: each walks the whole vocabulary for every token.
    """
    chain = SamplerChain()
    if sampling.repeat_penalty != 1.0:
        chain.add_penalties(n_vocab, PENALTY_TOKENS, sampling.repeat_penalty)
        for token in prompt[-PENALTY_TOKENS:]:
            chain.accept(token)
    if sampling.temperature == 0:
        chain.add_greedy()
        return chain
    if sampling.top_k > 0:
        chain.add_top_k(sampling.top_k)
    if sampling.top_p < 1:
        chain.add_top_p(sampling.top_p)
    if sampling.min_p > 0:
        chain.add_min_p(sampling.min_p)
    chain.add_temperature(sampling.temperature)
    chain.add_dist(secrets.randbits(32) if sampling.seed is None else sampling.seed)
    return chain
