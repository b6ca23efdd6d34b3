from __future__ import annotations

import json

import pytest

from promptd.chat import Message, Tool, ToolCall
from promptd.engine.template import JinjaTemplate, RawTemplate
from promptd.errors import InvalidArgument, RuntimeFailure

USER = [Message("user", "hi")]


def render(source: str, messages: list[Message] = USER, **variables: str) -> str:
    return JinjaTemplate(source, variables).render(messages, 0.0)


def test_whitespace_is_treated_as_transformers_does() -> None:
    source = (
        "{% for message in messages %}\n    {{ message.role }}\n    {% if true %}\nx\n    {% endif %}\n{% endfor %}\n"
    )
    assert render(source) == "    user\nx\n"


def test_templates_have_what_transformers_gives_them() -> None:
    assert render("{{ bos_token }}{{ eos_token }}", bos_token="<s>", eos_token="</s>") == "<s></s>"
    assert render("{{ {'a': 'ü<'} | tojson }}") == '{"a": "ü<"}'
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% generation %}a{% endgeneration %}b") == "ab"
    assert render("{{ strftime_now('%Y') }}") in ("1969", "1970"), "today is when the conversation was opened"
    assert render("{% if add_generation_prompt %}go{% endif %}{{ tools is defined and tools }}") == "goFalse"


def test_a_template_that_refuses_messages_says_why() -> None:
    with pytest.raises(InvalidArgument, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_system_message_a_template_refuses_is_put_before_the_first_user_message() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for message in messages %}[{{ message.role }}: {{ message.content }}]{% endfor %}"
    )
    messages = [Message("system", "be kind"), Message("user", "hi"), Message("assistant", "hello")]
    assert render(source, messages) == "[user: be kind\n\nhi][assistant: hello]"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{% include 'other' %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append('x') }}",
        "{{ strftime_now.__globals__.os }}",
    ],
)
def test_a_faulty_template_is_one_sentence(source: str) -> None:
    with pytest.raises(RuntimeFailure, match="the model's chat template fails: ") as caught:
        render(source)
    assert "\n" not in str(caught.value)
    assert 'template = "none"' in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 100000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
        "{{ range(999999999) | list }}",
    ],
)
def test_a_template_cannot_take_all_memory(source: str) -> None:
    with pytest.raises(RuntimeFailure, match="the model's chat template fails"):
        render(source)


def test_a_template_cannot_take_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptd.engine.template.MAX_CPU_SECONDS", 0.2)
    with pytest.raises(RuntimeFailure, match=r"more than 0\.2 s"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")


def test_no_template_is_the_texts_one_after_another() -> None:
    assert RawTemplate().render([Message("user", "a "), Message("assistant", "b")], 0.0) == "a b"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' | center(4000000000) }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}"
        "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    ],
)
def test_a_template_that_takes_gigabytes_is_stopped(source: str) -> None:
    with pytest.raises(RuntimeFailure, match=r"too much memory|too much text"):
        JinjaTemplate(source, {}).render([Message("user", "hi")], 0.0)


QWEN_LIKE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}|{% endif %}"
    "{% for message in messages %}[{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}]"
    "{% endfor %}"
)
TOOL = Tool("clock", "Tells the time.", '{"type": "object", "properties": {"zone": {"type": "string"}}}')
CALLED = [
    *USER,
    Message("assistant", "", (ToolCall("abcdefghi", "clock", '{"zone": "CET"}'),)),
    Message("tool", "noon", call_id="abcdefghi", tool="clock"),
]


def test_a_template_that_presents_tools_is_given_them_as_openais_clients_send_them() -> None:
    template = JinjaTemplate(QWEN_LIKE, {})
    assert template.takes_tools
    tools, _, rest = template.render(CALLED, 0.0, [TOOL]).partition("|")
    function = {"name": "clock", "description": "Tells the time.", "parameters": json.loads(TOOL.parameters)}
    assert json.loads(tools) == {"type": "function", "function": function}
    assert rest == '[user: hi][assistant: clock{"zone": "CET"}][tool: noon]'


@pytest.mark.parametrize("unaware", ["", "{# no tools here #}"])
def test_tools_are_put_in_words_for_a_template_that_presents_none(unaware: str) -> None:
    template = JinjaTemplate(unaware + "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}", {})
    assert not template.takes_tools
    text = template.render([Message("system", "be brief"), *CALLED], 0.0, [TOOL])
    assert text.startswith("[system: be brief\n\n# Tools") and '"zone": {"type": "string"}' in text
    assert '[assistant: <tool_call>\n{"name": "clock", "arguments": {"zone": "CET"}}\n</tool_call>]' in text
    assert text.endswith("[user: <tool_response>\nnoon\n</tool_response>]")
    assert template.render(USER, 0.0) == "[user: hi]"


def test_a_template_that_takes_arguments_as_text_is_given_text() -> None:
    calls = "{% for call in message.tool_calls %}{{ '<' + call.function.arguments + '>' }}{% endfor %}"
    source = "{{ tools[0].function.name }}{% for message in messages %}" + calls + "{% endfor %}"
    template = JinjaTemplate(source, {})
    assert template.render(CALLED, 0.0, [TOOL]) == 'clock<{"zone": "CET"}>'
