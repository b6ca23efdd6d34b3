"""Greedy replies, once many tokens were sampled so, are found in the logits themselves: what is found is the same."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

import pytest

from promptd.engine import llama, sampling
from promptd.engine.llama_greedy import Likeliest
from promptd.engine.llama_logprobs import logprob_of
from promptd.engine.options import Sampling
from promptd.engine.sampling import GreedySampler, Samplers, sampler_chain
from promptd.engine.transcript import TOKEN_CODE

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def context(model: llama.Model) -> Iterator[llama.Context]:
    """After a step with logits at index 2 and, of another sequence, 5."""
    context = llama.Context(model, cells=256, sequences=2, step_tokens=64, threads=2, offload=False)
    batch = llama.Batch(64)
    for number, text in enumerate(("The capital of", "Once upon a")):
        tokens = model.vocabulary.tokenize(text)[:3]
        batch.add(tokens, 0, number, output=True)
    context.decode(batch)
    yield context


def _by_chain(context: llama.Context, vocabulary: llama.Vocabulary, index: int, options: Sampling) -> int:
    ends = vocabulary.ends if options.ignore_end else None
    chain = sampler_chain(options, vocabulary.size, array(TOKEN_CODE), ends=ends)
    return chain.sample(context, index)


@pytest.mark.parametrize("index", [2, 5])
def test_the_likeliest_token_is_what_the_chain_takes(
    context: llama.Context, vocabulary: llama.Vocabulary, index: int
) -> None:
    likely = _by_chain(context, vocabulary, index, GREEDY)
    assert Likeliest(vocabulary.size, ()).find(context, index) == likely
    for biases in (
        ((likely, float("-inf")),),
        ((likely, -3.0), (11, 25.5)),
        ((7, 100.0), (8, 100.0)),
        tuple((token, float("-inf")) for token in range(likely + 1)),
    ):
        other = _by_chain(context, vocabulary, index, Sampling(temperature=0.0, logit_bias=biases))
        assert other != likely
        assert Likeliest(vocabulary.size, biases).find(context, index) == other


def test_of_equal_logits_the_first_is_taken(context: llama.Context, vocabulary: llama.Vocabulary) -> None:
    banned = tuple((token, float("-inf")) for token in range(vocabulary.size))
    assert Likeliest(vocabulary.size, banned).find(context, 2) == 0
    assert _by_chain(context, vocabulary, 2, Sampling(temperature=0.0, logit_bias=banned)) == 0


def test_biases_leave_the_probabilities_that_are_told(context: llama.Context, vocabulary: llama.Vocabulary) -> None:
    before = logprob_of(context, vocabulary, 2, 11, 3)
    Likeliest(vocabulary.size, ((11, 30.0), (12, float("-inf")))).find(context, 2)
    assert logprob_of(context, vocabulary, 2, 11, 3) == before


def test_what_is_no_number_is_left_to_the_chain(context: llama.Context, vocabulary: llama.Vocabulary) -> None:
    assert Likeliest(vocabulary.size, ((9, float("nan")),)).find(context, 2) is None


def test_the_logits_are_searched_once_that_pays(
    context: llama.Context, vocabulary: llama.Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "NUMPY_PAYS", 4)
    samplers = Samplers(vocabulary, 256)
    sampler = samplers.make(Sampling(temperature=0.0, ignore_end=True, logit_bias=((11, 2.0),)), array(TOKEN_CODE))
    assert isinstance(sampler, GreedySampler)
    found = []
    for _ in range(6):
        found.append((sampler.sample(context, 2), sampler._likeliest is not None))
    assert found == [(found[0][0], number >= 3) for number in range(6)]


def test_without_numpy_a_reply_goes_on_by_its_chain(
    context: llama.Context, vocabulary: llama.Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "NUMPY_PAYS", 2)
    sampler = Samplers(vocabulary, 256).make(GREEDY, array(TOKEN_CODE))
    assert isinstance(sampler, GreedySampler)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "promptd.engine.llama_greedy", None)  # its import fails
        tokens = [sampler.sample(context, 2) for _ in range(5)]
    assert tokens == [_by_chain(context, vocabulary, 2, GREEDY)] * 5
    assert sampler._likeliest is None
    assert [sampler.sample(context, 2) for _ in range(2)] == tokens[:2]
    assert sampler._likeliest is not None


@pytest.mark.parametrize(
    "options",
    [
        Sampling(temperature=0.8),
        Sampling(temperature=0.0, repeat_penalty=1.1),
        Sampling(temperature=0.0, presence_penalty=0.5),
        Sampling(temperature=0.0, dry_multiplier=0.8),
        Sampling(temperature=0.0, dynatemp_range=0.5),
        Sampling(temperature=0.0, logit_bias=((5, 1.0), (5, 1.0))),
        Sampling(temperature=0.0, grammar='root ::= "a"'),
    ],
)
def test_all_else_goes_through_a_chain(vocabulary: llama.Vocabulary, options: Sampling) -> None:
    assert not isinstance(Samplers(vocabulary, 256).make(options, array(TOKEN_CODE)), GreedySampler)
