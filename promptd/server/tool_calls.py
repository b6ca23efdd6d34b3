"""Finds the calls of tools in what a model says, whole or while it says it.

Understood are Hermes' and Qwen's `<tool_call>{...}</tool_call>`, the JSON that Llama 3 and Mistral put in place of a
reply, after `<|python_tag|>` or `[TOOL_CALLS]` where those are text, and the JSON a reply was held to.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Sequence

from promptd.chat import Tool, ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MARKS = ("<|python_tag|>", "[TOOL_CALLS]")
_CALL = re.compile(rf"{_OPEN}\s*(.*?)\s*{_CLOSE}\s*", re.DOTALL)
_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9
"""Mistral's template takes ids of nine letters and digits only; nobody else minds."""


def read_calls(text: str, tools: Sequence[Tool]) -> tuple[str, tuple[ToolCall, ...]]:
    """Return what of a whole reply is text, and the calls of `tools` in it; all is text where there are none."""
    reader = CallReader(tools)
    said = reader.feed(text)
    rest, calls = reader.finish()
    return said + rest, calls


class CallReader:
    """Tells text from calls in a reply that comes in pieces: what may be a call is held back until that is known."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = frozenset(tool.name for tool in tools)
        self._held = ""
        self._begun = False
        """Whether text was passed on: then the reply as a whole is no call."""

    def feed(self, piece: str) -> str:
        """Take a piece; return the text that is certainly not part of a call."""
        if not self._names:
            return piece
        self._held += piece
        if not self._begun and self._may_be_json():
            return ""
        spot = self._held.find(_OPEN)
        if spot < 0:
            spot = len(self._held) - _beginning_at_end(self._held, _OPEN)
        said, self._held = self._held[:spot], self._held[spot:]
        self._begun = self._begun or bool(said.strip())
        return said

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """Return the rest of the text, and the calls."""
        held, self._held = self._held, ""
        if not self._begun and (calls := self._of_json(held)):
            return "", calls
        marked = held if _CLOSE in held else held + _CLOSE  # a stop token may have taken the place of the last tag
        calls = ()
        for match in _CALL.finditer(marked):
            found = self._of_json(match[1])
            if not found:
                return held, ()
            calls += found
        return (_CALL.sub("", marked).removesuffix(_CLOSE).strip(), calls) if calls else (held, ())

    def _may_be_json(self) -> bool:
        begins = self._held.lstrip()
        return begins[:1] in ("", "{") or any(
            begins.startswith(mark) or mark.startswith(begins) for mark in (*_MARKS, "[{", "[ {", "[\n")
        )

    def _of_json(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls that `text` is, none if it is anything else."""
        text = text.strip()
        for mark in _MARKS:
            text = text.removeprefix(mark).strip()
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return ()
        calls = []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, dict) or not isinstance(value.get("name"), str):
                return ()
            if value["name"] not in self._names:
                return ()
            arguments = value.get("arguments", value.get("parameters", {}))
            if not isinstance(arguments, dict):
                return ()
            calls.append(ToolCall(new_call_id(), value["name"], json.dumps(arguments, ensure_ascii=False)))
        return tuple(calls)


def new_call_id() -> str:
    """Return a fresh id of a call."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def _beginning_at_end(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `tag`."""
    return next((length for length in range(len(tag) - 1, 0, -1) if text.endswith(tag[:length])), 0)
