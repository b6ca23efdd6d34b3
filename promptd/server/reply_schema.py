"""JSON schemas that hold a model to a call of a tool, or to what a request wants replies to look like."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from promptd.chat import Tool

_DEFINITION = re.compile(r"^#/(?:\$defs|definitions)/([^/]+)$")


def reply_schema(tools: Sequence[Tool], reply: str | None) -> str:
    """Return the schema, as text, of a call of one of `tools`, or else of `reply`, a schema itself."""
    if reply is not None and not tools:
        return reply
    definitions: dict[str, Any] = {}
    choices: list[Any] = []
    for index, tool in enumerate(tools):
        name = f"tool{index}"
        _define(definitions, name, json.loads(tool.parameters))
        properties = {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{name}"}}
        choices.append({"type": "object", "properties": properties, "required": ["name", "arguments"]})
    if reply is not None:
        _define(definitions, "reply", json.loads(reply))
        choices.append({"$ref": "#/$defs/reply"})
    return json.dumps({"$defs": definitions, "anyOf": choices}, ensure_ascii=False)


def _define(definitions: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    """Add `schema` as a definition of a larger one: what it refers to within itself moves along.

    llama.cpp's converter tells definitions apart by the last part of their path alone, so each gets a name of its own.
    """
    moved = _moved(schema, name)
    for key in ("$defs", "definitions"):
        own = moved.pop(key, None)
        if isinstance(own, dict):
            definitions.update({f"{name}-{each}": value for each, value in own.items()})
    definitions[name] = moved


def _moved(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_moved(each, name) for each in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(each, name) for key, each in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        known = _DEFINITION.match(reference)
        moved["$ref"] = f"#/$defs/{name}-{known[1]}" if known else f"#/$defs/{name}{reference[1:]}"
    return moved
