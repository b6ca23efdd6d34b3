"""The ways in which models write down a call of a tool: each function here reads one text that may be such calls.

Every family of models was trained on its own; its chat template shows it (llama.cpp's models/templates has most).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from promptd.chat import Tool

Tools = Mapping[str, Tool]
"""The tools that may be called, by name."""

Found = tuple[str, dict[str, Any]]
"""A name and arguments."""

_NAME_BEFORE_OBJECT = re.compile(r"\s*([A-Za-z0-9_.:-]+?)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")


def read(text: str, tools: Tools) -> list[Found]:
    """Return the calls that all of `text` is, none where it is anything else."""
    for dialect in (_json, _qwen_coder, _glm, _mistral):
        if found := dialect(text, tools):
            return found if all(name in tools for name, _ in found) else []
    return []


def _json(text: str, tools: Tools) -> list[Found]:
    """Hermes, Qwen, Llama 3 and Mistral: an object with `name` and `arguments` (or `parameters`), or a list of such."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for value in values if isinstance(values, list) else [values]:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return []
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return []
        found.append((value["name"], arguments))
    return found


def _qwen_coder(text: str, tools: Tools) -> list[Found]:
    """Qwen3-Coder and its heirs: `<function=NAME><parameter=KEY>VALUE</parameter></function>`."""
    outside, functions = split(text, "<function=", "</function>")
    found = []
    for function in functions:
        name, _, rest = function.partition(">")
        _, parameters = split(rest, "<parameter=", "</parameter>")
        pairs = [parameter.partition(">")[::2] for parameter in parameters]
        trimmed = [(key, value.removeprefix("\n").removesuffix("\n")) for key, value in pairs]
        found.append((name, _typed(trimmed, tools.get(name))))
    return [] if outside.strip() else found


def _glm(text: str, tools: Tools) -> list[Found]:
    """GLM: `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`."""
    outside, arguments = split(text, "<arg_key>", "</arg_value>")
    name = outside.strip()
    if name not in tools:
        return []
    pairs = [argument.partition("<arg_value>")[::2] for argument in arguments]
    trimmed = [(key.strip().removesuffix("</arg_key>").strip(), value) for key, value in pairs]
    return [(name, _typed(trimmed, tools[name]))]


def _mistral(text: str, tools: Tools) -> list[Found]:
    """Mistral since 2025: `NAME[ARGS]{...}`, of which `[ARGS]` is a control token, and no part of the text."""
    decoder = json.JSONDecoder()
    place = 0
    found = []
    while place < len(text):
        match = _NAME_BEFORE_OBJECT.match(text, place)
        if match is None:
            return []
        try:
            arguments, place = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            return []
        found.append((match[1], arguments))
    return found


def split(text: str, opening: str, closing: str) -> tuple[str, list[str]]:
    """Return what of `text` is outside of `opening` and `closing`, and what is between them each time.

    In linear time, whatever the text: with regular expressions it would be quadratic.
    """
    outside, inside = [], []
    place = 0
    while (start := text.find(opening, place)) >= 0:
        begin = start + len(opening)
        if (end := text.find(closing, begin)) < 0:
            break
        outside.append(text[place:start])
        inside.append(text[begin:end])
        place = end + len(closing)
    return "".join([*outside, text[place:]]), inside


def _typed(pairs: list[tuple[str, str]], tool: Tool | None) -> dict[str, Any]:
    """Return arguments that were written as bare text with the types their schema gives them."""
    properties = json.loads(tool.parameters).get("properties") if tool else None
    return {key: _value(text, (properties or {}).get(key)) for key, text in pairs}


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
