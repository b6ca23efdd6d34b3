"""Replies to bare tokens: beside conversations, with the cache of what the same guest sent before."""

from __future__ import annotations

import os
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exact import EXACT

from promptd.chat import Completion, Message
from promptd.config import EngineSettings
from promptd.engine.client import Engine
from promptd.engine.messages import RawEnd
from promptd.engine.options import Sampling
from promptd.engine.rawreply import RawReply
from promptd.errors import InvalidArgument, PromptdError, RuntimeFailure, TimedOut, TooLarge

GREEDY = Sampling(temperature=0, max_tokens=24)
QUESTION = b"<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def fresh(smollm2: Path) -> Iterator[Engine]:
    """An engine of the test's own, whose cells are filled in one order: attention adds in it, and rounds."""
    with Engine(smollm2, EXACT) as engine:
        yield engine


@pytest.fixture
def tokens(engine: Engine) -> array[int]:
    return engine.tokenize(QUESTION)


def test_text_is_tokenised_with_or_without_its_special_tokens(engine: Engine) -> None:
    assert len(engine.tokenize(b"<|im_start|>")) == 1
    assert len(engine.tokenize(b"<|im_start|>", parse_special=False)) > 1
    assert len(engine.tokenize(b"")) == 0
    assert len(engine.tokenize(b"\xff\xfe")) > 0
    with pytest.raises(TooLarge):
        engine.tokenize(b"a" * 10_000_000)


def test_a_reply_has_a_piece_for_each_token_and_spells_out_what_ended_it(engine: Engine, tokens: array[int]) -> None:
    reply = engine.generate("guest", tokens, GREEDY)
    assert list(reply) == [b"The", b" capital", b" of", b" Japan", b" is", b" Tokyo", b".", b"<|im_end|>"]
    assert reply.end is RawEnd.END_OF_GENERATION
    assert (reply.result().data, reply.result().usage.generated) == (b"The capital of Japan is Tokyo.<|im_end|>", 8)


def test_an_end_is_known_with_the_last_piece_and_not_before(engine: Engine, tokens: array[int]) -> None:
    reply = engine.generate("guest", tokens, Sampling(temperature=0, max_tokens=3))
    ends = []
    while reply.next_piece() is not None:
        ends.append(reply.end)
    assert ends == [None, None, RawEnd.MAX_TOKENS]


def test_a_reply_ends_with_its_reverse_prompt_also_across_tokens(engine: Engine, tokens: array[int]) -> None:
    completion = engine.generate("guest", tokens, GREEDY, reverse_prompt=b"al of Jap").result()
    assert (completion.data, completion.end) == (b"The capital of Japan", RawEnd.REVERSE_PROMPT)


def test_a_reply_ends_where_its_context_does(engine: Engine, tokens: array[int]) -> None:
    sampling = Sampling(temperature=0, ignore_end=True)
    completion = engine.generate("guest", tokens, sampling, context=len(tokens) + 5).result()
    assert (completion.usage.generated, completion.end) == (5, RawEnd.CONTEXT_FULL)
    with pytest.raises(TooLarge):
        engine.generate("guest", tokens, sampling, context=len(tokens))


def test_without_an_end_the_end_is_never_chosen(engine: Engine, tokens: array[int]) -> None:
    data = engine.generate("guest", tokens, Sampling(temperature=0, ignore_end=True, max_tokens=30)).result().data
    assert data.startswith(b"The capital of Japan is Tokyo.") and b"<|im_end|>" not in data


def test_the_same_prompt_again_is_not_decoded_again(engine: Engine, tokens: array[int]) -> None:
    first = engine.generate("reader", tokens, GREEDY).result()
    second = engine.generate("reader", tokens, GREEDY).result()
    assert (first.usage.cached, second.usage.cached) == (0, len(tokens) - 1)
    assert first.data == second.data


def test_a_prompt_goes_on_from_the_idle_sequence_that_begins_most_like_it(engine: Engine) -> None:
    head = b"<|im_start|>system\nYou are a careful librarian of a small town.<|im_end|>\n<|im_start|>user\n"
    first, second = (engine.tokenize(head + text) for text in (b"Name a book about ships.", b"What is a lending fee?"))
    for prompt in (first, second, first, second):
        engine.generate("librarian", prompt, GREEDY).result()
    usage = engine.generate("librarian", first, GREEDY).result().usage
    assert usage.cached == len(first) - 1, "what the second prompt shares with it was not taken from it"


def test_one_guest_finds_nothing_of_another_in_the_cache(engine: Engine, tokens: array[int]) -> None:
    engine.generate("one", tokens, GREEDY).result()
    assert engine.generate("other", tokens, GREEDY).result().usage.cached == 0


def test_replies_to_tokens_and_in_conversations_share_their_steps(
    engine: Engine, tokens: array[int], ask: Callable[..., Completion]
) -> None:
    alone = engine.generate("a", tokens, GREEDY).result().data
    conversation = engine.conversation("b")
    before = engine.stats().batch_widths
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(engine.generate("c", tokens, GREEDY).result().data)),
        threading.Thread(target=lambda: results.append(engine.generate("d", tokens, GREEDY).result().data)),
    ]
    reply = conversation.send([Message("user", "Tell me a story.")], GREEDY)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reply.result().text
    assert results == [alone, alone]
    after = engine.stats().batch_widths
    assert sum(count - before.get(width, 0) for width, count in after.items() if width > 1) > 0


def test_a_cancelled_reply_ends_and_can_be_asked_for_again(engine: Engine, tokens: array[int]) -> None:
    reply = engine.generate("guest", tokens, Sampling(temperature=0, ignore_end=True))
    assert reply.next_piece() == b"The"
    reply.cancel()
    assert reply.result().end is RawEnd.CANCELLED
    assert engine.stats().running == 0
    assert engine.generate("guest", tokens, GREEDY).result().data == b"The capital of Japan is Tokyo.<|im_end|>"


def test_a_reply_that_is_ahead_pauses_until_it_is_taken(fresh: Engine, tokens: array[int]) -> None:
    engine = fresh
    sampling = Sampling(temperature=0, ignore_end=True, max_tokens=60)
    whole = engine.generate("guest", tokens, sampling).result().data
    before = engine.stats().generated_tokens
    reply = engine.generate("guest", tokens, sampling, ahead=16)
    _until_idle(engine)
    assert engine.stats().generated_tokens - before == 16
    assert b"".join(reply) == whole
    paused = engine.generate("guest", tokens, sampling, ahead=4)
    _until_idle(engine)
    paused.cancel()
    assert paused.result().end is RawEnd.CANCELLED


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_reply_is_taken_whole_however_few_tokens_it_may_be_ahead(
    engine: Engine, tokens: array[int], ahead: int
) -> None:
    sampling = Sampling(temperature=0, ignore_end=True, max_tokens=10)
    assert len(list(engine.generate("guest", tokens, sampling, ahead=ahead))) == 10


def _until_idle(engine: Engine) -> None:
    while engine.stats().running or engine.stats().queue:
        time.sleep(0.005)


def test_a_deadline_ends_a_reply(engine: Engine, tokens: array[int]) -> None:
    reply = engine.generate("guest", tokens, Sampling(temperature=0, ignore_end=True), deadline=time.monotonic() + 0.2)
    with pytest.raises(TimedOut):
        reply.result()
    with pytest.raises(TimedOut):
        engine.generate("guest", tokens, GREEDY, deadline=time.monotonic() - 1)


@pytest.mark.parametrize("bad", [[], [-1], [10**6]])
def test_tokens_the_model_does_not_have_are_refused(engine: Engine, bad: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        engine.generate("guest", array("i", bad), GREEDY)
    with pytest.raises(InvalidArgument):
        engine.embed(array("i", bad))


def test_a_worker_that_dies_fails_the_reply_and_the_next_one_is_made_by_another(smollm2: Path) -> None:
    with Engine(smollm2, EngineSettings(threads=1, kv_tokens=1024)) as engine:
        tokens = engine.tokenize(QUESTION)
        reply = engine.generate("guest", tokens, Sampling(temperature=0, ignore_end=True))
        assert reply.next_piece()
        os.kill(engine.stats().worker_pid or 0, signal.SIGKILL)
        with pytest.raises(RuntimeFailure, match="SIGKILL"):
            list(reply)
        assert engine.generate("guest", tokens, GREEDY).result().data == b"The capital of Japan is Tokyo.<|im_end|>"


def test_many_prompts_of_many_guests_leave_the_cache_whole(smollm2: Path) -> None:
    with Engine(smollm2, EngineSettings(threads=1, step_tokens=48, kv_tokens=512, max_sequences=4)) as engine:
        countries = ["Japan", "France", "Italy", "Germany", "Spain"]
        prompts = [engine.tokenize(QUESTION.replace(b"Japan", countries[i % 5].encode())) for i in range(24)]
        sampling = Sampling(temperature=0, max_tokens=6)
        expected = {bytes(prompt): engine.generate("first", prompt, sampling).result().data for prompt in prompts[:5]}
        assert len(set(expected.values())) == 5
        replies: list[tuple[array[int], RawReply]] = [
            (prompt, engine.generate(f"guest {index % 3}", prompt, sampling)) for index, prompt in enumerate(prompts)
        ]
        for prompt, reply in replies:
            assert reply.result().data == expected[bytes(prompt)]
        stats = engine.stats()
        assert (stats.running, stats.queue) == (0, 0)
        assert stats.kv_used <= stats.kv_total and stats.resident <= 4


SAMPLERS = [
    Sampling(seed=1, max_tokens=8, typical_p=0.5),
    Sampling(seed=1, max_tokens=8, mirostat=1),
    Sampling(seed=1, max_tokens=8, mirostat=2, mirostat_eta=0.3),
    Sampling(seed=1, max_tokens=8, dynatemp_range=0.5, dynatemp_exponent=2),
    Sampling(seed=1, max_tokens=8, xtc_probability=0.5, xtc_threshold=0.1),
    Sampling(seed=1, max_tokens=8, dry_multiplier=0.8),
    Sampling(seed=1, max_tokens=8, presence_penalty=1.5, frequency_penalty=0.5, penalty_last_n=-1),
    Sampling(seed=1, max_tokens=8, repeat_penalty=1.3, penalty_last_n=2**31 - 1),
    Sampling(seed=1, max_tokens=8, min_keep=3, top_k=1),
]


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_every_sampler_makes_a_reply_and_the_same_one_with_the_same_seed(
    fresh: Engine, tokens: array[int], sampling: Sampling
) -> None:
    first, second = (fresh.generate("guest", tokens, sampling).result().data for _ in range(2))
    assert first == second != b""


def test_penalties_lower_what_has_been_said(engine: Engine) -> None:
    tokens = engine.tokenize(b"The cat. The cat. The cat. The cat. The cat. The cat.")
    repeating = engine.generate("guest", tokens, Sampling(temperature=0, max_tokens=6)).result().data
    assert repeating.startswith(b" The cat.")
    for penalty in (
        Sampling(temperature=0, max_tokens=6, frequency_penalty=4),
        Sampling(temperature=0, max_tokens=6, presence_penalty=30),
        Sampling(temperature=0, max_tokens=6, dry_multiplier=50, dry_base=3),
    ):
        assert not engine.generate("guest", tokens, penalty).result().data.startswith(b" The cat.")


# Grammars


def test_a_conversation_keeps_to_a_grammar(engine: Engine, ask: Callable[..., Completion]) -> None:
    conversation = engine.conversation("guest")
    sampling = Sampling(temperature=0, max_tokens=30, grammar='root ::= ("yes" | "no") "."')
    assert ask(conversation, "Is the sky blue?", sampling).text in ("yes.", "no.")
    assert ask(conversation, "And the grass?", sampling).text in ("yes.", "no.")


def test_a_schema_with_recursion_and_characters_beyond_ascii_is_kept_to(engine: Engine, tokens: array[int]) -> None:
    schema = '{"type": "array", "items": {"enum": ["größe", "日本"]}, "minItems": 2, "maxItems": 2}'
    data = engine.generate("guest", tokens, Sampling(temperature=0, max_tokens=40, json_schema=schema)).result().data
    assert data.decode().count("größe") + data.decode().count("日本") == 2


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        ("root ::= (", InvalidArgument),
        ("root ::= [^\\x00-\\U0010FFFF]", PromptdError),
        ("root ::= " + "x" * 70_000, TooLarge),
        ('root ::= "a" root "x" | "a" root "y" | "a" root "z"', TooLarge),
    ],
)
def test_a_grammar_that_cannot_be_kept_to_fails_the_reply_and_nothing_else(
    engine: Engine, tokens: array[int], grammar: str, kind: type[PromptdError]
) -> None:
    worker = engine.stats().worker_pid
    with pytest.raises(kind):
        engine.generate(
            "guest", tokens, Sampling(temperature=0, max_tokens=60, ignore_end=True, grammar=grammar)
        ).result()
    assert engine.stats().worker_pid == worker


# Embeddings


def test_embeddings_are_made_between_the_steps_of_replies(engine: Engine, tokens: array[int]) -> None:
    reply = engine.generate("guest", tokens, Sampling(temperature=0, ignore_end=True, max_tokens=40))
    text = engine.tokenize(b"A long text about ships and the sea. " * 12)
    first = engine.embed(text)
    assert reply.result().usage.generated == 40
    assert engine.embed(text) == first
    assert abs(sum(value * value for value in first) - 1) < 1e-4
    assert len(first) == 576


def test_pooling_can_be_chosen(engine: Engine) -> None:
    text = engine.tokenize(b"A text about ships.")
    last, mean = engine.embed(text, pooling=3), engine.embed(text, pooling=1)
    assert last != mean
    assert engine.embed(text) == pytest.approx(last, abs=1e-3), "SmolLM2 pools nothing, so its last token is taken"
    with pytest.raises(InvalidArgument):
        engine.embed(text, pooling=4)


def test_an_embedding_is_made_where_no_reply_is_being_made_any_more(tiny: Callable[..., Path]) -> None:
    with Engine(tiny()) as engine:
        tokens = engine.tokenize(b"hello")
        for _ in range(3):
            engine.generate("guest", tokens, Sampling(max_tokens=4)).result()
            assert len(engine.embed(tokens)) == 32
        assert engine.stats().worker_starts == 1


def test_a_text_that_is_too_long_for_an_embedding_is_refused(engine: Engine) -> None:
    with pytest.raises(TooLarge):
        engine.embed(array("i", [5] * 3000))
    with pytest.raises(TimedOut):
        engine.embed(array("i", [5] * 300), deadline=time.monotonic() - 1)


def test_a_reply_that_pauses_at_a_guess_that_held_goes_on(smollm2: Path) -> None:
    repeated = array("i", [500] * 60)
    sampling = Sampling(temperature=0, ignore_end=True, max_tokens=40)
    with Engine(smollm2, EXACT.model_copy(update={"speculation": "on"})) as engine:
        assert len(list(engine.generate("guest", repeated, sampling, ahead=2))) == 40
        assert engine.stats().accepted_tokens > 0
