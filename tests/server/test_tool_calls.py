"""Calls of tools found in what models say, whole and in pieces, and the schemas that hold a model to one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptd.chat import Tool, ToolCall
from promptd.server.reply_schema import reply_schema
from promptd.server.tool_calls import CallReader, read_calls

TOOLS = [Tool("weather", "", "{}"), Tool("time", "", "{}")]
PARIS = ("weather", {"city": "Paris"})
NOW = ("time", {})


def plain(calls: tuple[ToolCall, ...]) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("It rains.", "It rains.", []),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', "", [PARIS]),
        ('Let me see.\n<tool_call>{"name": "time", "arguments": {}}</tool_call>', "Let me see.\n", [NOW]),
        ('<tool_call>{"name": "time"}</tool_call>\n<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}'
         "</tool_call>", "", [NOW, PARIS]),
        ('<tool_call>\n{"name": "time", "arguments": {}}\n', "", [NOW]),
        ('{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
        ('<|python_tag|>{"name": "time", "parameters": {}}', "", [NOW]),
        ('[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "time"}]', "", [PARIS, NOW]),
        (' [{"name": "time", "arguments": {}}] ', "", [NOW]),
        ('weather[ARGS]{"city": "Paris"}', "", [PARIS]),
        ('weather{"city": "Paris"}time{}', "", [PARIS, NOW]),
        ('[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris"}', "", [PARIS]),
        ("<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
         "", [PARIS]),
        ("<tool_call>\n<function=time>\n</function>\n</tool_call>", "", [NOW]),
        ("<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>", "", [PARIS]),
        ("time is money", "time is money", []),
        ("time{", "time{", []),
        ("<tool_call><function=f></function></tool_call>", "<tool_call><function=f></function></tool_call>", []),
        ('<tool_call>{"name": "time"}</tool_call><tool_call>{"name": "time"}', "", [NOW, NOW]),
        ('{"name": "launch", "arguments": {}}', '{"name": "launch", "arguments": {}}', []),
        ('{"name": ["time"], "arguments": {}}', '{"name": ["time"], "arguments": {}}', []),
        ('{"name": "time", "arguments": 3}', '{"name": "time", "arguments": 3}', []),
        ('<tool_call>{"name": "launch"}</tool_call>', '<tool_call>{"name": "launch"}</tool_call>', []),
        ("<tool_call>nonsense", "<tool_call>nonsense", []),
        ("a < b, a <tool", "a < b, a <tool", []),
        ("[link](x)", "[link](x)", []),
        ("[" * 5000, "[" * 5000, []),
        ("", "", []),
    ],
)  # fmt: skip
def test_calls_are_found_and_all_else_is_text(text: str, said: str, calls: list[tuple[str, object]]) -> None:
    found = read_calls(text, TOOLS)
    assert (found[0], plain(found[1])) == (said, calls)
    reader = CallReader(TOOLS)
    pieces = "".join(reader.feed(character) for character in text)
    rest, in_pieces = reader.finish()
    assert (pieces + rest, plain(in_pieces)) == (said, calls)


def test_arguments_written_as_bare_text_have_the_types_of_their_schema() -> None:
    schema = '{"type": "object", "properties": {"zip": {"type": "string"}, "days": {"type": "integer"}}}'
    text = (
        "<tool_call>f<arg_key>zip</arg_key><arg_value>75001</arg_value><arg_key>days</arg_key><arg_value>3</arg_value>"
    )
    _, (call,) = read_calls(text, [Tool("f", "", schema)])
    assert json.loads(call.arguments) == {"zip": "75001", "days": 3}


def test_text_is_passed_on_as_soon_as_it_is_no_call() -> None:
    reader = CallReader(TOOLS)
    assert reader.feed("[1] is") == "[1] is"
    assert reader.feed(" a list <") == " a list "
    assert reader.feed("b>") == "<b>"
    assert CallReader([]).feed('{"name": "time"}') == '{"name": "time"}', "nothing is a call where no tools are"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 90_000 + "</tool_call>" + "<tool_call>" * 4,
        "<tool_call>" + " " * 900_000 + "x",
        "<tool_call>" + "<function=a>" * 80_000,
        "<tool_call>time" + "<arg_key>" * 90_000,
        "<tool_call>" + "a{}" * 300_000,
        "[" + "{" * 900_000,
        "<tool_call>" + "x" * 5_000_000,
    ],
)
def test_no_reply_takes_long_to_read(text: str) -> None:
    # Were it not linear, each would take minutes.
    assert read_calls(text, TOOLS) == (text, ())


def test_ids_of_calls_are_fresh_and_such_as_every_template_takes() -> None:
    _, (one, two) = read_calls('[{"name": "time"}, {"name": "time"}]', TOOLS)
    assert one.id != two.id
    assert len(one.id) == 9 and one.id.isalnum()


@given(st.text(alphabet='<tool_cal>/{}[]"name: ', max_size=60))
def test_no_text_is_lost_where_there_is_no_call(text: str) -> None:
    assert read_calls(text, TOOLS) == (text, ())


def test_schemas_of_several_tools_keep_their_definitions_apart() -> None:
    def tool(name: str, value: str) -> Tool:
        schema = {
            "type": "object",
            "properties": {"unit": {"$ref": "#/$defs/Unit"}, "again": {"$ref": "#"}},
            "$defs": {"Unit": {"const": value}},
        }
        return Tool(name, "", json.dumps(schema))

    schema = json.loads(reply_schema([tool("a", "x"), tool("b", "y")], '{"type": "string"}'))
    definitions = schema["$defs"]
    for name, value in (("tool0", "x"), ("tool1", "y")):
        properties = definitions[name]["properties"]
        assert properties["again"]["$ref"] == f"#/$defs/{name}"
        assert definitions[properties["unit"]["$ref"].removeprefix("#/$defs/")] == {"const": value}
    assert len(schema["anyOf"]) == 3
