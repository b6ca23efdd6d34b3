"""The sampler of one reply: which of the model's next tokens is taken."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from promptd.engine.llama import Context, Vocabulary
from promptd.engine.llama_samplers import SamplerChain
from promptd.engine.options import Sampling
from promptd.engine.transcript import TOKEN_CODE
from promptd.errors import InvalidArgument

if TYPE_CHECKING:
    from promptd.engine.llama_grammar import Candidates
    from promptd.engine.llama_greedy import Likeliest

NUMPY_PAYS = 512
"""Greedy tokens a worker samples before it imports numpy for them, which takes as long as is saved on so many."""


class Sampler(Protocol):
    """Chooses tokens for one reply."""

    def sample(self, context: Context, index: int) -> int:
        """Choose the token that follows batch index `index` of the last step, and accept it; raises a PromptdError."""


class Samplers:
    """Makes the samplers of one model's replies."""

    def __init__(self, vocabulary: Vocabulary, context: int) -> None:
        """`context` is how many tokens a sequence can have, which is as far back as any sampler looks."""
        self._vocabulary = vocabulary
        self._context = context
        self._candidates: Candidates | None = None
        self._greedy_tokens = 0

    def make(self, sampling: Sampling, prompt: array[int]) -> Sampler:
        """Return a fresh sampler; raises InvalidArgument or TooLarge for a grammar that cannot be kept to, and
        InvalidArgument for a bias of a token that is none.
        """
        size = self._vocabulary.size
        for token, _ in sampling.logit_bias:
            if not 0 <= token < size:
                raise InvalidArgument(f"logit_bias: the model has no token {token}; its tokens are 0 to {size - 1}")
        vocabulary = self._vocabulary
        ends = vocabulary.ends if sampling.ignore_end else array(TOKEN_CODE)
        chain = sampler_chain(sampling, vocabulary.size, prompt, ends=ends, most=self._context, vocabulary=vocabulary)
        if sampling.grammar or sampling.json_schema:
            return self._with_grammar(chain, sampling)
        biases = _biases(sampling, ends)
        if _is_greedy(sampling, self._context) and len(dict(biases)) == len(biases):
            return GreedySampler(chain, biases, self)
        return chain

    def likeliest(self, biases: Sequence[tuple[int, float]]) -> Likeliest | None:
        """Return what finds a greedy reply's next tokens without its chain, None while that does not pay yet."""
        self._greedy_tokens += 1
        if self._greedy_tokens < NUMPY_PAYS:
            return None
        try:
            from promptd.engine.llama_greedy import Likeliest
        except (ImportError, MemoryError):  # no memory for numpy: the chain needs none, and it is tried again later
            self._greedy_tokens = 0
            return None
        return Likeliest(self._vocabulary.size, biases)

    def _with_grammar(self, chain: SamplerChain, sampling: Sampling) -> Sampler:
        from promptd.engine.grammar import GrammarSampler, gbnf  # with numpy, which other replies need not wait for
        from promptd.engine.llama_grammar import Candidates

        grammar = gbnf(sampling.grammar, sampling.json_schema)
        if grammar is None:
            return chain
        self._candidates = self._candidates or Candidates(self._vocabulary.size)
        return GrammarSampler(self._vocabulary, chain, grammar, self._candidates)


class GreedySampler:
    """The sampler of a greedy reply that only looks at the logits."""

    def __init__(self, chain: SamplerChain, biases: Sequence[tuple[int, float]], samplers: Samplers) -> None:
        """`chain` does the same with `biases`, slower."""
        self._chain = chain
        self._biases = biases
        self._samplers = samplers
        self._likeliest: Likeliest | None = None

    def sample(self, context: Context, index: int) -> int:
        """Choose the token that follows batch index `index` of the last step."""
        if self._likeliest is None:
            self._likeliest = self._samplers.likeliest(self._biases)
        found = self._likeliest.find(context, index) if self._likeliest else None
        return self._chain.sample(context, index) if found is None else found


def sampler_chain(
    sampling: Sampling,
    n_vocab: int,
    prompt: array[int],
    *,
    ends: array[int] | None = None,
    most: int = 1 << 20,
    vocabulary: Vocabulary | None = None,
) -> SamplerChain:
    """Return a fresh chain in llama.cpp's order (common_sampler_init); penalties also see the end of `prompt`.

    `ends` are made impossible; penalties look at most `most` tokens back; DRY needs the `vocabulary`. Samplers that
    would change nothing are left out: each walks the whole vocabulary for every token.
    """
    chain = SamplerChain()
    if biases := _biases(sampling, ends or ()):
        chain.add_bias(n_vocab, biases)
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    if sampling.temperature > 0 and sampling.mirostat:
        chain.add_temperature(sampling.temperature)
        chain.add_mirostat(sampling.mirostat, n_vocab, seed, sampling.mirostat_tau, sampling.mirostat_eta)
        return chain
    _add_penalties(chain, sampling, n_vocab, prompt, most, vocabulary)
    if sampling.temperature == 0 and sampling.dynatemp_range == 0:
        chain.add_greedy()
        return chain
    keep = max(1, sampling.min_keep)
    if sampling.top_k > 0:
        chain.add_top_k(max(sampling.top_k, keep))
    if sampling.typical_p < 1:
        chain.add_typical(sampling.typical_p, keep)
    if sampling.top_p < 1:
        chain.add_top_p(sampling.top_p, keep)
    if sampling.min_p > 0:
        chain.add_min_p(sampling.min_p, keep)
    if sampling.xtc_probability > 0:
        chain.add_xtc(sampling.xtc_probability, sampling.xtc_threshold, keep, seed)
    if sampling.dynatemp_range > 0:
        chain.add_dynamic_temperature(sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent)
    else:
        chain.add_temperature(sampling.temperature)
    chain.add_dist(seed)
    return chain


def _add_penalties(
    chain: SamplerChain,
    sampling: Sampling,
    n_vocab: int,
    prompt: array[int],
    most: int,
    vocabulary: Vocabulary | None,
) -> None:
    last = _penalised(sampling, most)
    if last:
        chain.add_penalties(
            n_vocab, last, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
        )
    dry = _dried(sampling, most) if vocabulary is not None else 0
    if dry and vocabulary is not None:
        chain.add_dry(vocabulary, sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length, dry)
    back = max(last, dry)
    for token in prompt[-back:] if back else ():
        chain.accept(token)


def _biases(sampling: Sampling, ends: Iterable[int]) -> tuple[tuple[int, float], ...]:
    """Return what is added to the logits of some tokens: those that end a turn become impossible."""
    return (*sampling.logit_bias, *((end, float("-inf")) for end in ends))


def _is_greedy(sampling: Sampling, most: int) -> bool:
    """Return whether the likeliest token is taken, whatever came before."""
    greedy = sampling.temperature == 0 and sampling.dynatemp_range == 0
    return greedy and not _penalised(sampling, most) and not _dried(sampling, most)


def _penalised(sampling: Sampling, most: int) -> int:
    """Return how many of the last tokens are made less likely."""
    if (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.0, 0.0):
        return 0
    return most if sampling.penalty_last_n < 0 else min(sampling.penalty_last_n, most)


def _dried(sampling: Sampling, most: int) -> int:
    """Return how many of the last tokens are not to be repeated."""
    if sampling.dry_multiplier <= 0:
        return 0
    return most if sampling.dry_penalty_last_n < 0 else min(sampling.dry_penalty_last_n, most)
