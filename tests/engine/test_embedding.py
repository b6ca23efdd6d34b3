"""Embeddings of many texts in few steps, on SmolLM2."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from promptd.engine import llama
from promptd.engine.client import Engine
from promptd.engine.embedding import CHUNK_TOKENS, SEQUENCES, Embedder
from promptd.engine.llama_embedding import POOLING_CLS, POOLING_LAST, POOLING_MEAN, POOLING_NONE, EmbeddingContext
from promptd.engine.messages import POOLING_MODEL_OR_MEAN
from promptd.errors import Busy, InvalidArgument, PromptdError, TimedOut, TooLarge

TEXTS = [
    f"Text {number} is about {thing}." for number in range(2) for thing in ("a cat", "the tax office of Rome", "C")
]


@pytest.fixture
def embedder(model: llama.Model) -> Embedder:
    return Embedder(model, step_tokens=CHUNK_TOKENS, threads=1, offload=False, queue=100)


def finished(embedder: Embedder, most: int | None = None) -> tuple[dict[int, array[float] | PromptdError], int]:
    """Step until nothing is left; return the outcomes by call, and the number of steps."""
    outcomes: dict[int, array[float] | PromptdError] = {}
    steps = 0
    while embedder.busy:
        outcomes.update(embedder.step(most))
        steps += 1
    return outcomes, steps


def likeness(one: object, other: object) -> float:
    assert isinstance(one, array)
    assert isinstance(other, array)
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("pooling", [POOLING_MEAN, POOLING_LAST, POOLING_CLS])
def test_many_texts_share_a_step_and_each_is_as_llama_cpp_pools_it_alone(
    model: llama.Model, embedder: Embedder, pooling: int
) -> None:
    texts = [model.vocabulary.tokenize(text) for text in TEXTS]
    for call, text in enumerate(texts):
        embedder.submit(call, text, pooling, None)
    batched, steps = finished(embedder)
    assert steps == 1
    alone = EmbeddingContext(model, tokens=256, step_tokens=256, sequences=1, pooling=pooling, threads=1, offload=False)
    for call, text in enumerate(texts):
        alone.remove(0)
        alone.decode([(text, 0, 0)])
        pooled = alone.pooled(0)
        length = float((pooled**2).sum()) ** 0.5
        assert likeness(batched[call], array("f", pooled / length)) > 0.999


def test_a_text_in_chunks_has_the_vector_it_has_whole(model: llama.Model, embedder: Embedder) -> None:
    long = model.vocabulary.tokenize("A long text about ships and the sea. " * 4)
    short = model.vocabulary.tokenize("A short one.")
    for call, pooling in enumerate((POOLING_MEAN, POOLING_LAST, POOLING_NONE, POOLING_CLS)):
        embedder.submit(call, long, pooling, None)
    embedder.submit(4, short, POOLING_MEAN, None)
    whole, _ = finished(embedder)
    for call, pooling in enumerate((POOLING_MEAN, POOLING_LAST, POOLING_NONE, POOLING_CLS)):
        embedder.submit(call, long, pooling, None)
    embedder.submit(4, short, POOLING_MEAN, None)
    chunked, steps = finished(embedder, most=15)
    assert steps == -(-(4 * len(long) + len(short)) // 15)
    assert all(likeness(whole[call], chunked[call]) > 0.999 for call in range(5))
    assert likeness(whole[0], whole[1]) < 0.99 > likeness(whole[1], whole[3])


def test_without_a_pooling_of_its_own_a_model_gives_the_mean(model: llama.Model, embedder: Embedder) -> None:
    text = model.vocabulary.tokenize("A text about ships.")
    for call, pooling in enumerate((POOLING_MODEL_OR_MEAN, POOLING_MEAN)):
        embedder.submit(call, text, pooling, None)
    made, _ = finished(embedder)
    assert likeness(made[0], made[1]) > 0.9999


def test_a_model_made_for_another_pooling_gives_that_one(tiny: Callable[..., Path]) -> None:
    llama.start()
    model = llama.Model(tiny(pooling=POOLING_LAST), gpu_layers=0)
    embedder = Embedder(model, step_tokens=64, threads=1, offload=False, queue=10)
    for call, pooling in enumerate((POOLING_MODEL_OR_MEAN, POOLING_LAST, POOLING_MEAN)):
        embedder.submit(call, array("i", [3, 4, 5, 6]), pooling, None)
    own, last, mean = (outcome for _, outcome in sorted(finished(embedder)[0].items()))
    assert likeness(own, last) > 0.9999 > likeness(own, mean)


@pytest.mark.parametrize("pooling", [POOLING_MEAN, POOLING_LAST, POOLING_NONE])
def test_a_model_whose_tokens_see_each_other_has_each_text_whole(tiny: Callable[..., Path], pooling: int) -> None:
    llama.start()
    model = llama.Model(tiny(causal=False), gpu_layers=0)
    embedder = Embedder(model, step_tokens=8, threads=1, offload=False, queue=10)
    texts = [array("i", [3 + number] * (10 * number + 2)) for number in range(5)]
    for call, text in enumerate(texts):
        embedder.submit(call, text, pooling, None)
    together, steps = finished(embedder, most=1)
    assert steps == 1
    for call, text in enumerate(texts):
        embedder.submit(call, text, pooling, None)
        assert likeness(finished(embedder)[0][call], together[call]) > 0.999


def test_more_texts_than_a_step_has_sequences_take_turns(model: llama.Model, embedder: Embedder) -> None:
    for call in range(SEQUENCES + 5):
        embedder.submit(call, array("i", [500 + call]), POOLING_MEAN, None)
    made, steps = finished(embedder)
    assert (len(made), steps) == (SEQUENCES + 5, 2)


def test_one_that_is_cancelled_or_late_leaves_the_others(model: llama.Model, embedder: Embedder) -> None:
    text = model.vocabulary.tokenize("A text about ships. " * 10)
    for call in range(4):
        embedder.submit(call, text, POOLING_MEAN, time.monotonic() - 1 if call == 3 else None)
    first = embedder.step(10)
    assert [(call, type(outcome)) for call, outcome in first] == [(3, TimedOut)]
    embedder.cancel(0)
    made, _ = finished(embedder)
    assert sorted(made) == [1, 2]
    assert likeness(made[1], made[2]) > 0.999


def test_what_cannot_be_embedded_is_refused(model: llama.Model, embedder: Embedder) -> None:
    for tokens, pooling, kind in (
        ([], POOLING_MEAN, InvalidArgument),
        ([-1], POOLING_MEAN, InvalidArgument),
        ([model.vocabulary.size], POOLING_MEAN, InvalidArgument),
        ([1] * 2049, POOLING_MEAN, TooLarge),
        ([1], 4, InvalidArgument),
        ([1], -3, InvalidArgument),
    ):
        with pytest.raises(kind):
            embedder.submit(1, array("i", tokens), pooling, None)
    for call in range(100):
        embedder.submit(call, array("i", [5]), POOLING_MEAN, None)
    with pytest.raises(Busy):
        embedder.submit(100, array("i", [5]), POOLING_MEAN, None)


def test_embeddings_are_computed_by_as_many_threads_as_the_replies_are(embedder: Embedder) -> None:
    for threads in (2, 1):
        embedder.set_threads(threads)
        embedder.submit(threads, array("i", [500] * 3), POOLING_MEAN, None)
        finished(embedder)
        assert embedder.threads == threads, "as llama.cpp says of the context that is there then"


def test_an_engine_takes_many_texts_at_once_and_fails_them_together(engine: Engine) -> None:
    texts = [engine.tokenize(text.encode()) for text in TEXTS]
    together = engine.embed_all(texts)
    assert likeness(together[5], engine.embed(texts[5])) > 0.999
    assert engine.embed_all([]) == []
    with pytest.raises(InvalidArgument):
        engine.embed_all([*texts, array("i")])
    assert likeness(engine.embed_all(texts)[0], together[0]) > 0.999
