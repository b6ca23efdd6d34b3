"""Log-probabilities, biases and penalties, through OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from serving import Served

from promptd.backends.ggml import GgmlGraph

ASK: Any = [{"role": "user", "content": "Are dogs real? Say it with a 🐕."}]


def test_the_tokens_of_a_reply_and_the_likeliest_others_are_told(served: Served) -> None:
    completion = served.openai.chat.completions.create(
        model="chat", messages=ASK, max_tokens=8, logprobs=True, top_logprobs=3
    )
    (choice,) = completion.choices
    assert choice.logprobs and choice.logprobs.content
    tokens = choice.logprobs.content
    assert completion.usage and len(tokens) == completion.usage.completion_tokens == 8
    spelt = b"".join(bytes(token.bytes or ()) for token in tokens).decode(errors="replace")
    assert spelt.startswith((choice.message.content or "").rstrip("\ufffd")), "the last character may be cut"
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy takes the likeliest"
    without = served.openai.chat.completions.create(model="chat", messages=ASK, max_tokens=2, logprobs=True).choices[0]
    assert without.logprobs and [token.top_logprobs for token in without.logprobs.content or ()] == [[], []]


def test_a_stream_tells_them_with_its_pieces(served: Served) -> None:
    chunks = served.openai.chat.completions.create(
        model="chat", messages=ASK, max_tokens=8, logprobs=True, top_logprobs=1, stream=True
    )
    scores = [chunk.choices[0].logprobs for chunk in chunks]
    tokens = [token for each in scores if each for token in each.content or ()]
    assert len(tokens) == 8 and all(len(token.top_logprobs) == 1 for token in tokens)


def test_completions_tell_where_in_the_text_their_tokens_are(served: Served) -> None:
    create = served.openai.completions.create
    (choice,) = create(model="chat", prompt="One, two,", max_tokens=6, logprobs=2).choices
    scores = choice.logprobs
    assert scores and scores.tokens and scores.text_offset and scores.top_logprobs
    assert "".join(scores.tokens) == choice.text
    for token, offset, top in zip(scores.tokens, scores.text_offset, scores.top_logprobs, strict=True):
        assert choice.text[offset:].startswith(token)
        assert token in top and len(top) == 2
    chunks = list(create(model="chat", prompt="One, two,", max_tokens=6, logprobs=2, stream=True))
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [offset for each in streamed for offset in each.text_offset or ()] == scores.text_offset


def _token(served: Served, text: str) -> str:
    """Return the number of the one token that `text` is."""
    graph = served.host.graph("chat")
    assert isinstance(graph, GgmlGraph)
    (token,) = graph.text_model(b"", "test").engine.tokenize(text.encode(), add_special=False)
    return str(token)


def test_a_bias_forces_a_token_or_bans_it(served: Served) -> None:
    def reply(**fields: Any) -> str:
        completion = served.openai.chat.completions.create(model="chat", messages=ASK, max_tokens=4, **fields)
        return completion.choices[0].message.content or ""

    cat, dog = _token(served, " cat"), _token(served, " dog")
    assert reply(logit_bias={cat: 100}) == " cat" * 4
    assert reply(logit_bias={cat: 90, dog: 100}) == " dog" * 4
    assert " dog" not in reply(logit_bias={cat: 90, dog: -100})


def test_a_penalty_keeps_a_model_from_repeating_itself(served: Served) -> None:
    def text(**fields: Any) -> str:
        completion = served.openai.completions.create(
            model="chat", prompt="A cat", max_tokens=24, logit_bias={_token(served, " cat"): 30}, **fields
        )
        return completion.choices[0].text

    assert text() == " cat" * 24
    assert text(presence_penalty=-2.0) == " cat" * 24
    assert text(frequency_penalty=2.0) != " cat" * 24


@pytest.mark.parametrize(
    "fields",
    [
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"logit_bias": {"dog": 1}},
        {"logit_bias": {"5": 101}},
        {"logit_bias": {"999999999": 1}},
        {"presence_penalty": 3},
        {"frequency_penalty": "much"},
    ],
)
def test_options_out_of_range_are_refused(served: Served, fields: dict[str, Any]) -> None:
    response = served.complete("chat", "hi", **fields)
    assert response.status_code == 400, response.text


def test_a_guest_tells_none(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="log-probabilities"):
        served.openai.chat.completions.create(model="guest/handler", messages=ASK, logprobs=True)
