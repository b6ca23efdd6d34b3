"""POST /v1/completions and /v1/responses, and several choices, through OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from serving import Served, wait_until


def test_a_completion_goes_on_with_the_text_itself(served: Served) -> None:
    completion = served.openai.completions.create(model="chat", prompt="One, two, three, four,", max_tokens=8)
    assert completion.object == "text_completion"
    assert "five" in completion.choices[0].text
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None and completion.usage.completion_tokens == 8
    chunks = list(served.openai.completions.create(
        model="chat", prompt="One, two, three, four,", max_tokens=8, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == completion.choices[0].text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8


def test_several_prompts_have_several_choices(served: Served) -> None:
    completion = served.openai.completions.create(model="echo", prompt=["a", "b"], n=2)
    assert [choice.text for choice in completion.choices] == ["a", "a", "b", "b"]
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    chunks = list(served.openai.completions.create(
        model="echo", prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    texts = ["", "", "", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["a", "a", "b", "b"]
    assert chunks[-1].choices == [] and chunks[-1].usage == completion.usage


def test_a_guest_does_not_go_on_with_a_text(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="chat/completions"):
        served.openai.completions.create(model="guest/handler", prompt="a")


def test_choices_of_one_seed_differ(served: Served) -> None:
    # They are not repeatable to the token: how wide the batch is changes the last bits of its logits.
    messages: Any = [{"role": "user", "content": "Name an animal."}]
    completion = served.openai.chat.completions.create(
        model="chat", messages=messages, n=3, seed=5, temperature=1.5, top_p=1, max_tokens=10
    )
    assert completion.usage is not None and completion.usage.completion_tokens <= 30
    assert len({choice.message.content for choice in completion.choices}) == 3


def test_choices_stream_side_by_side(served: Served) -> None:
    messages: Any = [{"role": "user", "content": "Name an animal."}]
    chunks = list(served.openai.chat.completions.create(
        model="chat", messages=messages, n=3, seed=5, temperature=1.5, top_p=1, max_tokens=12, logprobs=True,
        stream=True, stream_options={"include_usage": True},
    ))  # fmt: skip
    told = [choice for chunk in chunks for choice in chunk.choices]
    spoke = [choice.index for choice in told if choice.delta.content]
    assert spoke != sorted(spoke), "each choice comes as it is made"
    assert sorted(choice.index for choice in told if choice.finish_reason) == [0, 1, 2]
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    usage = chunks[-1].usage
    tokens = sum(len(choice.logprobs.content or ()) for choice in told if choice.logprobs)
    assert usage and 3 <= tokens <= usage.completion_tokens <= 36
    texts = ["".join(choice.delta.content or "" for choice in told if choice.index == index) for index in range(3)]
    assert len(set(texts)) == 3


def test_calls_stream_in_the_choice_they_are_of(served: Served) -> None:
    ask: Any = [{"role": "user", "content": SAY_CALL}]
    tool: Any = {"type": "function", "function": {"name": "get_time"}}
    with served.openai.chat.completions.stream(model="echo", messages=ask, n=2, tools=[tool]) as events:
        choices = events.get_final_completion().choices
    assert [choice.finish_reason for choice in choices] == ["tool_calls", "tool_calls"]
    assert [len(choice.message.tool_calls or ()) for choice in choices] == [1, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_that_fails_fails_the_request_and_leaves_nothing_running(served: Served, stream: bool) -> None:
    assert served.complete("guest/handler", "!", n=3, stream=stream).status_code == 503
    wait_until(lambda: served.stats().running == 0)


def test_a_response_is_a_message(served: Served) -> None:
    response = served.openai.responses.create(model="echo", input="hello", instructions="be brief")
    assert response.output_text == "hello"
    assert (response.status, response.object) == ("completed", "response")
    parts: Any = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
    ]
    assert served.openai.responses.create(model="guest/handler", input=parts).output_text == "1/3 c"


def test_a_response_streams_typed_events(served: Served) -> None:
    whole = served.openai.responses.create(model="chat", input="Are dogs real?", max_output_tokens=12)
    assert whole.status == "incomplete" and whole.incomplete_details is not None
    assert whole.usage is not None and whole.usage.output_tokens == 12
    with served.openai.responses.stream(model="chat", input="Are dogs real?", max_output_tokens=12) as events:
        seen = list(events)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    kinds = [event.type for event in seen]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.incomplete"
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert len(deltas) > 8 and "".join(deltas) == whole.output_text


CLOCK: Any = {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}
SAY_CALL = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
"""What the echo graph answers with a call."""


def test_a_response_calls_tools_and_is_told_what_came_of_it(served: Served) -> None:
    create = served.openai.responses.create
    response = create(model="chat", input="What time is it?", tools=[CLOCK], tool_choice="required")
    (call,) = response.output
    assert call.type == "function_call" and (call.name, call.arguments) == ("get_time", "{}")
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    told: Any = [{"role": "user", "content": "What time is it?"}, call.to_dict(), answer]
    after = create(model="chat", input=told, tools=[CLOCK], max_output_tokens=1)
    assert after.usage and response.usage and after.usage.input_tokens > response.usage.input_tokens
    assert create(model="echo", input=told, tools=[CLOCK]).output_text == "noon"


def test_calls_in_a_response_stream_as_items_of_their_own(served: Served) -> None:
    with served.openai.responses.stream(model="echo", input=f"Let me see. {SAY_CALL}", tools=[CLOCK]) as events:
        seen = list(events)
        final = events.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call"]
    assert final.output_text == "Let me see. "
    kinds = [event.type for event in seen]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 2
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    (arguments,) = [event.arguments for event in seen if event.type == "response.function_call_arguments.done"]
    assert arguments == "{}"


def test_a_response_keeps_to_a_format(served: Served) -> None:
    schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}
    text: Any = {"format": {"type": "json_schema", "name": "dog", "schema": schema, "strict": True}}
    response = served.openai.responses.create(model="chat", input="How many legs has a dog?", text=text)
    assert isinstance(json.loads(response.output_text)["legs"], int)


def test_a_response_calls_one_of_the_allowed_tools(served: Served) -> None:
    weather: Any = {**CLOCK, "name": "get_weather"}
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]}
    response = served.openai.responses.create(
        model="chat", input="What is the weather?", tools=[weather, CLOCK], tool_choice=choice
    )
    (call,) = response.output
    assert call.type == "function_call" and call.name == "get_time"
    assert response.to_dict()["tool_choice"] == choice


def test_a_response_tells_the_tokens_where_that_is_included(served: Served) -> None:
    ask: Any = {"model": "chat", "input": "Are dogs real?", "max_output_tokens": 8}
    ask |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (message,) = served.openai.responses.create(**ask).output
    assert message.type == "message" and message.content[0].type == "output_text"
    tokens = message.content[0].logprobs or []
    assert len(tokens) == 8 and all(len(token.top_logprobs) == 2 for token in tokens)
    assert "".join(token.token for token in tokens) == message.content[0].text
    with served.openai.responses.stream(**ask) as events:
        seen = list(events)
    streamed = [token for event in seen if event.type == "response.output_text.delta" for token in event.logprobs]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    (done,) = [event for event in seen if event.type == "response.output_text.done"]
    assert len(done.logprobs) == 8
    without = served.openai.responses.create(model="chat", input="Are dogs real?", max_output_tokens=1).output[0]
    assert without.to_dict()["content"][0]["logprobs"] == []


def test_a_guest_responds_and_fails_with_a_status(served: Served) -> None:
    with served.openai.responses.stream(model="guest/handler", input="hi") as events:
        assert events.get_final_response().output_text == "1/1 hi"
    with pytest.raises(openai.APIStatusError, match="try later"):
        served.openai.responses.create(model="guest/handler", input="!", stream=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"tools": [{"type": "web_search"}]},
        {"top_logprobs": 2},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 21},
        {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        {"input": [{"type": "computer_call"}]},
        {"input": []},
    ],
)
def test_what_responses_cannot_do_is_refused(served: Served, fields: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        served.openai.responses.create(**{"model": "echo", "input": "hi", **fields})
