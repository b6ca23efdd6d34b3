"""Tools for models whose chat template knows none: they, their calls and answers are put in words, in Hermes' manner.

https://github.com/NousResearch/Hermes-Function-Calling; Qwen's templates say the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from promptd.chat import Message, Tool

_INTRODUCTION = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    'XML tags:\n<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)


def in_words(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return `messages` with `tools` presented in the first system message, and calls and answers as plain text."""
    told: list[Message] = []
    for message in messages:
        if message.role == "tool":
            answer = f"<tool_response>\n{message.content}\n</tool_response>"
            if told and told[-1].role == "user" and told[-1].content.endswith("</tool_response>"):
                answer = f"{told.pop().content}\n{answer}"
            told.append(Message("user", answer))
        else:
            calls = (f"<tool_call>\n{_call(call.name, call.arguments)}\n</tool_call>" for call in message.calls)
            parts = [message.content] if message.content or not message.calls else []
            told.append(Message(message.role, "\n".join([*parts, *calls])))
    if not tools:
        return told
    introduction = _INTRODUCTION.format(tools="\n".join(map(_signature, tools)))
    if told and told[0].role == "system":
        return [Message("system", f"{told[0].content}\n\n{introduction}"), *told[1:]]
    return [Message("system", introduction), *told]


def _signature(tool: Tool) -> str:
    function = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


def _call(name: str, arguments: str) -> str:
    return json.dumps({"name": name, "arguments": json.loads(arguments)}, ensure_ascii=False)
