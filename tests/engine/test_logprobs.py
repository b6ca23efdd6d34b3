"""How likely the model thought each token, where that is asked for, and biases of the caller's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest
from exact import GREEDY

from promptd.chat import Completion, Message, Piece, StopReason
from promptd.engine import llama
from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.options import Sampling
from promptd.errors import InvalidArgument

Ask = Callable[..., Completion]
SCORED = msgspec.structs.replace(GREEDY, logprobs=3)


def test_greedy_takes_the_likeliest_and_the_tokens_spell_the_text(engine: Engine, ask: Ask) -> None:
    reply = ask(engine.conversation("scored"), "Name three fruits.", SCORED)
    assert b"".join(each.data for each in reply.logprobs).decode() == reply.text
    for each in reply.logprobs:
        first = each.top[0]
        assert (each.token, each.data, each.logprob) == (first.token, first.data, first.logprob)
        assert [other.logprob for other in each.top] == sorted((other.logprob for other in each.top), reverse=True)
        assert len({other.token for other in each.top}) == 3
        assert sum(math.exp(other.logprob) for other in each.top) <= 1 + 1e-6
    assert len(reply.logprobs) == reply.usage.generated - (reply.stop_reason is StopReason.END_OF_TURN)


def test_all_probabilities_together_are_one(engine: Engine, ask: Ask) -> None:
    everything = msgspec.structs.replace(GREEDY, logprobs=100_000, max_tokens=1)
    (first,) = ask(engine.conversation("scored"), "Hi", everything).logprobs
    assert sum(math.exp(other.logprob) for other in first.top) == pytest.approx(1, abs=1e-6)


def test_temperature_and_penalties_do_not_change_what_is_told(engine: Engine, ask: Ask) -> None:
    plain = ask(engine.conversation("scored"), "Name three fruits.", SCORED).logprobs[0]
    changes = {"temperature": 1.5, "repeat_penalty": 1.5, "seed": 3, "max_tokens": 1}
    other = ask(engine.conversation("scored"), "Name three fruits.", msgspec.structs.replace(SCORED, **changes))
    assert [each.logprob for each in other.logprobs[0].top] == pytest.approx(
        [each.logprob for each in plain.top], abs=0.1
    )


def test_a_stream_tells_of_each_token_with_its_text(engine: Engine) -> None:
    sampling = msgspec.structs.replace(SCORED, logprobs=0)
    reply = engine.conversation("scored").send([Message("user", "Write three emoji.")], sampling)
    pieces = list(reply)
    assert all(isinstance(piece, Piece) for piece in pieces)
    told = [each for piece in pieces if isinstance(piece, Piece) for each in piece.logprobs]
    assert tuple(told) == reply.result().logprobs
    assert all(each.top == () for each in told)


def test_tokens_of_a_stop_sequence_are_not_told(engine: Engine, ask: Ask) -> None:
    whole = ask(engine.conversation("scored"), "Count from one to ten.", SCORED)
    spelt = [each.data.decode() for each in whole.logprobs]
    stop = spelt[4][-1:] + spelt[5]  # begins within a token, and ends with the next
    cut = ask(engine.conversation("scored"), "Count from one to ten.", msgspec.structs.replace(SCORED, stop=(stop,)))
    assert cut.stop_reason is StopReason.STOP_SEQUENCE
    told = "".join(each.data.decode() for each in cut.logprobs)
    assert told.startswith(cut.text)
    assert not told[: -len(cut.logprobs[-1].data.decode())].startswith(cut.text), "none beyond the last in the text"


def test_nothing_is_told_unasked(engine: Engine, ask: Ask) -> None:
    reply = engine.conversation("scored").send([Message("user", "Hi")], GREEDY)
    assert not any(isinstance(piece, Piece) for piece in reply)
    assert reply.result().logprobs == ()


def test_a_bias_forces_and_bans_tokens(engine: Engine, ask: Ask, vocabulary: llama.Vocabulary) -> None:
    (token,) = vocabulary.tokenize(" apple")
    forced = ask(engine.conversation("biased"), "Hi", Sampling(max_tokens=3, logit_bias=((token, 100.0),)))
    assert forced.text == " apple apple apple"
    first = ask(engine.conversation("biased"), "Hi", SCORED).logprobs[0].token
    banned = ask(engine.conversation("biased"), "Hi", msgspec.structs.replace(SCORED, logit_bias=((first, -100.0),)))
    assert first not in {each.token for each in banned.logprobs}
    assert banned.logprobs[0].top[0].token == first, "the model's own probabilities are told"


@pytest.mark.parametrize("token", [-1, 49152])
def test_a_bias_of_a_token_that_is_none_is_refused(engine: Engine, token: int) -> None:
    conversation: Conversation = engine.conversation("biased")
    with pytest.raises(InvalidArgument, match=f"has no token {token}; its tokens are 0 to 49151"):
        conversation.send([Message("user", "Hi")], Sampling(logit_bias=((token, 1.0),)))
