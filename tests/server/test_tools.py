"""Tools and formats of replies, through OpenAI's and Ollama's own clients."""

from __future__ import annotations

import json
from typing import Any

import ollama
import openai
import pytest
from serving import Served

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"$ref": "#/$defs/Unit"}},
            "required": ["city", "unit"],
            "$defs": {"Unit": {"enum": ["celsius", "kelvin"]}},
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time"}}
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pâris"}}\n</tool_call>'
SAY_CALL: Any = [{"role": "user", "content": CALL}]
"""What the echo graph answers with a call."""
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_model_held_to_a_call_makes_one(served: Served, choice: Any) -> None:
    completion = served.openai.chat.completions.create(
        model="chat", messages=ASK, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, max_tokens=100
    )
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function" and call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("celsius", "kelvin")


def test_the_named_tool_is_called_though_there_are_others(served: Served) -> None:
    completion = served.openai.chat.completions.create(
        model="chat", messages=ASK, tools=[WEATHER, CLOCK], max_tokens=60,
        tool_choice={"type": "function", "function": {"name": "get_time"}},
    )  # fmt: skip
    (call,) = completion.choices[0].message.tool_calls or ()
    assert call.type == "function" and (call.function.name, call.function.arguments) == ("get_time", "{}")


def _allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_called(served: Served) -> None:
    create = served.openai.chat.completions.create
    held = create(
        model="chat", messages=ASK, tools=[WEATHER, CLOCK], max_tokens=60, tool_choice=_allowed("required", "get_time")
    ).choices[0]
    (call,) = held.message.tool_calls or ()
    assert call.type == "function" and call.function.name == "get_time"
    for name, reason in (("get_weather", "tool_calls"), ("get_time", "stop")):
        free = create(model="echo", messages=SAY_CALL, tools=[WEATHER, CLOCK], tool_choice=_allowed("auto", name))
        assert free.choices[0].finish_reason == reason


def test_calls_stream_as_deltas(served: Served) -> None:
    with served.openai.chat.completions.stream(
        model="chat", messages=ASK, tools=[WEATHER], tool_choice="required", max_tokens=100
    ) as events:
        completion = events.get_final_completion()
    assert completion.choices[0].finish_reason == "tool_calls"
    (call,) = completion.choices[0].message.tool_calls or ()
    assert call.function.name == "get_weather" and "city" in json.loads(call.function.arguments)
    with served.openai.chat.completions.stream(model="echo", messages=SAY_CALL, tools=[WEATHER]) as events:
        (call,) = events.get_final_completion().choices[0].message.tool_calls or ()
    assert json.loads(call.function.arguments) == {"city": "Pâris"}


def test_a_model_may_call_or_talk(served: Served) -> None:
    create = served.openai.chat.completions.create
    called = create(model="echo", messages=SAY_CALL, tools=[WEATHER]).choices[0]
    assert called.finish_reason == "tool_calls" and called.message.tool_calls
    talked = create(model="echo", messages=ASK, tools=[WEATHER]).choices[0]
    assert talked.finish_reason == "stop" and talked.message.tool_calls is None
    assert talked.message.content == ASK[0]["content"]
    forbidden = create(model="echo", messages=SAY_CALL, tools=[WEATHER], tool_choice="none").choices[0]
    assert (forbidden.message.content, forbidden.message.tool_calls) == (CALL, None)


def test_tools_and_their_answers_reach_the_model(served: Served) -> None:
    def tokens(messages: Any, **more: Any) -> int:
        completion = served.openai.chat.completions.create(model="chat", messages=messages, max_tokens=1, **more)
        assert completion.usage is not None
        return completion.usage.prompt_tokens

    call = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    asked = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    answered = [*asked, {"role": "tool", "tool_call_id": "abcdefghi", "content": "Rain."}]
    counts = [tokens(ASK), tokens(ASK, tools=[WEATHER]), tokens(asked, tools=[WEATHER])]
    counts.append(tokens(answered, tools=[WEATHER]))
    assert counts == sorted(set(counts))
    assert tokens(answered) > tokens(ASK), "an answer may come without the tools it is of"


def test_replies_keep_to_a_schema(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"type": "string", "maxLength": 10}, "legs": {"type": "integer"}},
        "required": ["animal", "legs"],
        "additionalProperties": False,
    }
    answer_format: Any = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    messages: Any = [{"role": "user", "content": "Name an animal."}]
    completion = served.openai.chat.completions.create(
        model="chat", messages=messages, response_format=answer_format, max_tokens=80
    )
    reply = json.loads(completion.choices[0].message.content or "")
    assert list(reply) == ["animal", "legs"] and isinstance(reply["legs"], int)
    either = served.openai.chat.completions.create(
        model="chat", messages=messages, response_format=answer_format, tools=[CLOCK], max_tokens=80
    ).choices[0].message  # fmt: skip
    assert either.tool_calls or set(json.loads(either.content or "")) == {"animal", "legs"}


def test_replies_are_json_objects_where_that_is_wanted(served: Served) -> None:
    messages: Any = [{"role": "user", "content": 'Say {"a": 1} in JSON.'}]
    completion = served.openai.chat.completions.create(
        model="chat", messages=messages, response_format={"type": "json_object"}, max_tokens=25
    )
    text = completion.choices[0].message.content or ""
    assert text.startswith("{")
    assert completion.choices[0].finish_reason == "length" or isinstance(json.loads(text), dict)


def _format(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", **fields}}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "go together"),
        (_format(), "schema"),
        (_format(schema={"type": "banana"}), "banana"),
        (_format(schema={"$ref": "#/nowhere"}), "nowhere"),
        (_format(schema={"const": "\ud800"}), "surrogate"),
        ({"tools": [{"type": "browser"}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "name"),
        ({"tools": [CLOCK, CLOCK]}, "same name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]}, "object"),
        ({"tools": [CLOCK], "tool_choice": NAMED}, "get_weather"),
        ({"tools": [CLOCK], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": _allowed("auto", "get_weather")}, "get_weather"),
        ({"tools": [CLOCK], "tool_choice": _allowed("auto")}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": _allowed("none", "get_time")}, "tool_choice"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [NAMED]}]}, "tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": "[" * 100}}]}]}, "arguments"),
        ({"messages": [{"role": "assistant", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": "{,}"}}]}]}, "arguments"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(served: Served, fields: dict[str, Any], words: str) -> None:
    body = json.dumps({"model": "chat", "messages": ASK, **fields})
    response = served.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert words in f"{error['param']}: {error['message']}", error


def test_guests_take_neither_tools_nor_formats(served: Served) -> None:
    for fields in ({"tools": [CLOCK]}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(openai.BadRequestError, match="guest"):
            served.openai.chat.completions.create(model="guest/handler", messages=ASK, **fields)  # type: ignore[call-overload]


def test_ollamas_clients_have_tools_and_formats(served: Served) -> None:
    client = ollama.Client(host=served.url)
    message = client.chat("echo", SAY_CALL, tools=[WEATHER]).message
    (call,) = message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Pâris"})
    parts = list(client.chat("echo", SAY_CALL, tools=[WEATHER], stream=True))
    assert [each.function.name for part in parts for each in part.message.tool_calls or ()] == ["get_weather"]
    told = [*SAY_CALL, message, {"role": "tool", "tool_name": "get_weather", "content": "Rain."}]
    assert client.chat("echo", told, tools=[WEATHER]).message.content == "Rain."
    schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}
    reply = client.chat("chat", [{"role": "user", "content": "Legs of a dog?"}], format=schema)
    assert isinstance(json.loads(reply.message.content or "")["legs"], int)
    with pytest.raises(ollama.ResponseError, match="chat does not support tools") as caught:
        client.chat("chat", ASK, tools=[WEATHER])
    assert caught.value.status_code == 400
