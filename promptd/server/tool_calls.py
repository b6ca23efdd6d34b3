"""Finds the calls of tools in what a model says, whole or while it says it.

A call stands between `<tool_call>` and `</tool_call>`, or is the whole of a reply, after `<|python_tag|>` or
`[TOOL_CALLS]` where those are text; `tool_dialects` says how it is written down.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Sequence

from promptd.chat import Tool, ToolCall
from promptd.server.tool_dialects import read, split

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MARKS = ("<|python_tag|>", "[TOOL_CALLS]")
_LISTS = ("[{", "[ {", "[\n")
"""How a list of calls begins, and few other replies do."""
_AFTER_NAME = ("{", "[ARGS]", "[CALL_ID]")
MAX_CALLS = 1024**2
"""Characters of all calls in a reply; more, which are read between other clients' tokens, are taken for text."""
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
        self._tools = {tool.name: tool for tool in tools}
        self._held = ""
        self._begun = False
        """Whether text was passed on: then the reply as a whole is no call."""

    def feed(self, piece: str) -> str:
        """Take a piece; return the text that is certainly not part of a call."""
        if not self._tools:
            return piece
        self._held += piece
        if not self._begun and self._may_be_call():
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
        if len(held) > MAX_CALLS:
            return held, ()
        if not self._begun and (calls := self._calls(held)):
            return "", calls
        # A stop token may have taken the place of the last closing tag.
        open_ended = held.rfind(_OPEN) > held.rfind(_CLOSE)
        outside, insides = split(held + _CLOSE if open_ended else held, _OPEN, _CLOSE)
        calls = ()
        for inside in insides:
            found = self._calls(inside)
            if not found:
                return held, ()
            calls += found
        return (outside.strip(), calls) if calls else (held, ())

    def _may_be_call(self) -> bool:
        """Tell whether the reply so far may be the beginning of one that is a call as a whole."""
        text = self._held.lstrip()
        if text[:1] in ("", "{"):
            return True
        beginnings = (*_MARKS, *_LISTS, *(name + after for name in self._tools for after in _AFTER_NAME))
        return any(text.startswith(begin) or begin.startswith(text) for begin in beginnings)

    def _calls(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls that `text` is, none if it is anything else."""
        text = text.strip()
        for mark in _MARKS:
            text = text.removeprefix(mark).strip()
        return tuple(
            ToolCall(new_call_id(), name, json.dumps(arguments, ensure_ascii=False))
            for name, arguments in read(text, self._tools)
        )


def new_call_id() -> str:
    """Return a fresh id of a call."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def _beginning_at_end(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `tag`."""
    return next((length for length in range(len(tag) - 1, 0, -1) if text.endswith(tag[:length])), 0)
