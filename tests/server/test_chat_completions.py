"""POST /v1/chat/completions and GET /v1/models, through OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from serving import Served, wait_until

from promptd.chat import Message

QUESTION = "Are dogs real?"
ENDLESS = {"temperature": 100, "top_k": 0, "top_p": 1, "min_p": 0}
"""So hot that no reply ends by itself."""


def _messages(*contents: str) -> Any:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


def test_the_echo_graph_answers_with_the_last_message(served: Served) -> None:
    completion = served.openai.chat.completions.create(model="echo", messages=_messages("one", "two", "three é🐕"))
    assert completion.object == "chat.completion"
    assert completion.model == "echo"
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].message.content == "three é🐕"
    assert completion.choices[0].finish_reason == "stop"


def test_a_graph_answers_as_the_graph_called_directly(served: Served) -> None:
    context = served.host.graph("chat").prompt_context("test")
    direct = context.send([Message("user", QUESTION)]).result()
    context.close()
    completion = served.openai.chat.completions.create(model="chat", messages=_messages(QUESTION))
    assert completion.choices[0].message.content == direct.text
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == direct.usage.prompt
    assert completion.usage.completion_tokens == direct.usage.generated
    assert completion.usage.total_tokens == direct.usage.prompt + direct.usage.generated


def test_a_stream_brings_the_same_reply_in_pieces(served: Served) -> None:
    whole = served.openai.chat.completions.create(model="chat", messages=_messages(QUESTION), max_tokens=30)
    chunks = list(served.openai.chat.completions.create(
        model="chat", messages=_messages(QUESTION), max_tokens=30, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 10
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 30
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_reports_no_usage_unless_asked(served: Served) -> None:
    chunks = list(served.openai.chat.completions.create(model="echo", messages=_messages("hi"), stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_reply_ends_at_the_token_limit(served: Served, name: str) -> None:
    limit: Any = {name: 5}
    completion = served.openai.chat.completions.create(model="chat", messages=_messages(QUESTION), **limit)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None and completion.usage.completion_tokens == 5


def test_a_reply_ends_before_a_stop_sequence(served: Served) -> None:
    whole = served.complete("chat", QUESTION, max_tokens=20).json()["choices"][0]["message"]["content"]
    word = whole.split()[5]
    choice = served.complete("chat", QUESTION, max_tokens=20, stop=[word]).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(word)]
    assert choice["finish_reason"] == "stop"


def test_a_seed_makes_a_sampled_reply_repeatable(served: Served) -> None:
    def text(seed: int) -> str:
        reply = served.complete("chat", QUESTION, max_tokens=20, temperature=1.5, top_p=1, seed=seed)
        return str(reply.json()["choices"][0]["message"]["content"])

    assert text(7) == text(7)
    assert len({text(seed) for seed in range(4)}) > 1


def test_the_whole_history_of_a_request_reaches_the_model(served: Served) -> None:
    alone = served.complete("chat", "And cats?", max_tokens=1).json()["usage"]["prompt_tokens"]
    messages = _messages(QUESTION, "Yes, they are.", "And cats?")
    after = served.openai.chat.completions.create(model="chat", messages=messages, max_tokens=1)
    assert after.usage is not None and after.usage.prompt_tokens > alone


def test_content_may_come_in_text_parts_and_unknown_fields_do_not_matter(served: Served) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    completion = served.openai.chat.completions.create(
        model="echo", messages=parts, user="me", extra_body={"brand_new": {"field": 1}}
    )
    assert completion.choices[0].message.content == "ab"


def test_two_streams_interleave(served: Served) -> None:
    body = {"model": "chat", "messages": _messages(QUESTION), "stream": True, "max_tokens": 2000, **ENDLESS}
    with served.streaming("/v1/chat/completions", body) as one:
        for _ in range(3):
            next(one)
        with served.streaming("/v1/chat/completions", {**body, "max_tokens": 10}) as two:
            assert len(list(two)) > 10
        assert served.stats().running == 1, "the first stream is not over when the second is"
    wait_until(lambda: served.stats().running == 0)


def test_a_handler_guest_is_a_model(served: Served) -> None:
    completion = served.openai.chat.completions.create(model="guest/handler", messages=_messages("a", "b", "c"))
    assert completion.choices[0].message.content == "1/3 c"
    again = served.openai.chat.completions.create(model="guest/handler", messages=_messages("d"))
    assert again.choices[0].message.content == "1/1 d", "each request has an instance of its own"


def test_what_a_handler_writes_streams_on(served: Served) -> None:
    chunks = served.openai.chat.completions.create(model="guest/handler", messages=_messages("hé"), stream=True)
    contents = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert contents == ["1/1 ", "hé"]


def test_a_handler_guest_brings_its_models_usage(served: Served) -> None:
    chunks = list(served.openai.chat.completions.create(
        model="guest/persona", messages=_messages(QUESTION), stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert len(chunks) > 10
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 0 and chunks[-1].usage.completion_tokens > 0


def test_a_command_guest_reads_the_last_user_message_and_its_output_is_the_reply(served: Served) -> None:
    completion = served.openai.chat.completions.create(model="guest/lines", messages=_messages("a", "b", "c é"))
    assert completion.choices[0].message.content == "said: c é"


def test_a_command_guest_streams_what_it_prints(served: Served) -> None:
    certain = "What is the capital of France?"
    direct = served.complete("chat", certain).json()["choices"][0]["message"]["content"]
    chunks = served.openai.chat.completions.create(model="guest/terminal", messages=_messages(certain), stream=True)
    contents = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(contents) > 3
    assert "".join(contents) == direct.rstrip("\n"), "greedy output through a guest equals that of the engine"


@pytest.mark.parametrize(
    ("guest", "content", "status", "words"),
    [
        ("handler", "!", 503, "try later"),
        ("handler", "*", 500, "unreachable"),
        ("lines", "x", 500, "exited with code 3"),
    ],
)
def test_a_guest_that_fails_fails_the_request(
    served: Served, guest: str, content: str, status: int, words: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        served.openai.chat.completions.create(model=f"guest/{guest}", messages=_messages(content))
    assert caught.value.status_code == status


def test_models_are_graphs_and_guests(served: Served) -> None:
    names = [model.id for model in served.openai.models.list()]
    assert names[:2] == ["chat", "echo"]
    assert {"guest/handler", "guest/lines", "guest/persona"} <= set(names)
    assert served.openai.models.retrieve("guest/lines").id == "guest/lines"
    with pytest.raises(openai.NotFoundError):
        served.openai.models.retrieve("guest/nobody")
