"""What to decode for a conversation's next turn: the tokens that continue its past, or a new past that fits the
context.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from promptd.chat import Message, Tool, ToolCall
from promptd.engine.messages import MAX_TOKEN_CHARACTERS
from promptd.engine.template import ChatTemplate
from promptd.engine.tokenizer import Fragment, Tokenizer, choose_marker
from promptd.engine.transcript import Transcript, common_prefix
from promptd.errors import InvalidArgument, TooLarge

REPLY_SHARE = 4
"""Where old turns may be dropped, a prompt leaves one part in this many of the context to the reply."""

_PROBES = ("a", "7")
"""User messages that have no token in common."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """All tokens before a reply: `tokens[:kept]` are the conversation's history, whose first `dropped` turns are
    now left out.
    """

    messages: tuple[Message, ...]
    tokens: array[int]
    kept: int
    dropped: int
    fragments: list[Fragment]


class PromptBuilder:
    """Renders and tokenises conversations of one model with one template."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        context: int,
        remedy: str = "give the graph a larger context",
    ) -> None:
        """`remedy` is what the operator can do where `context` tokens are too few."""
        self._remedy = remedy
        self._tokenizer = tokenizer
        self._template = template
        self._context = context

    def build(
        self,
        transcript: Transcript,
        history: array[int],
        rendered: list[Fragment] | None,
        messages: tuple[Message, ...],
        *,
        overflow: Literal["shift", "error"],
        max_tokens: int | None,
    ) -> Prompt:
        """Return the prompt that adds `messages` to the conversation.

        `history` is the conversation's tokens and `rendered` the fragments of its last prompt, None when they are
        not known any more. Raises TooLarge when the prompt cannot fit the context, and what the template raises.
        """
        size = sum(map(_length, messages)) + sum(map(_length, transcript.tools))
        if size > self._context * MAX_TOKEN_CHARACTERS:
            raise TooLarge(
                f"the prompt has {size} characters, far beyond the {self._context} tokens this conversation can hold"
            )
        count = len(messages) + sum(len(message.calls) for message in messages)
        if count > self._context:  # each costs a token at least, and rendering them all would cost time
            raise TooLarge(
                f"the prompt has {count} messages and calls, more than the {self._context} tokens it can be in all"
            )
        prompt = self._continue(transcript, history, rendered, messages)
        share = self._context // REPLY_SHARE
        reserve = share if max_tokens is None else min(share, max_tokens)
        if overflow == "shift" and len(prompt.tokens) + reserve > self._context:
            prompt = self._shift(transcript, history, prompt, self._context - share)
        if len(prompt.tokens) >= self._context:
            raise TooLarge(
                f"the conversation is {len(prompt.tokens)} tokens with this prompt,"
                f" but can hold {self._context} with its reply;"
                f" shorten the prompt, start anew, or {self._remedy}"
            )
        if not prompt.tokens:
            raise InvalidArgument("the prompt is empty")
        return prompt

    def preamble(self, system: tuple[Message, ...], opened: float) -> array[int]:
        """Return the tokens that every conversation with these system messages begins with, whatever is said in it."""
        openings = [
            self._tokenizer.encode(
                self._render(Transcript(opened=opened), [*system, Message("user", text)]), begins=True
            )
            for text in _PROBES
        ]
        return openings[0][: common_prefix(*openings)]

    def _continue(
        self,
        transcript: Transcript,
        history: array[int],
        rendered: list[Fragment] | None,
        messages: tuple[Message, ...],
    ) -> Prompt:
        """Add `messages` to the whole conversation.

        If its rendered text begins with the last prompt and the reply just as they were, only the rest is
        tokenised: the reply stays as it was generated. A template may have rewritten the past, for example without
        the reply's thinking; then all is tokenised anew.
        """
        fragments = self._render(transcript, [*transcript.messages(), *messages])
        if transcript.turns and transcript.turns[-1].exact:
            rest = _rest(fragments, self._past(transcript, rendered))
            if rest is not None:
                tokens = history + self._tokenizer.encode(rest, begins=False)
                return Prompt(messages, tokens, len(history), 0, fragments)
        tokens = self._tokenizer.encode(fragments, begins=True)
        return Prompt(messages, tokens, common_prefix(history, tokens), 0, fragments)

    def _shift(self, transcript: Transcript, history: array[int], prompt: Prompt, limit: int) -> Prompt:
        """Drop the fewest oldest turns with which the prompt has at most `limit` tokens, or all turns.

        What is left is tokenised and decoded anew. Moving its cells instead (llama_memory_seq_add) would also move
        them under the forks that share them, and would leave keys and values in place that had attended to what was
        dropped.
        """
        few, many = 1, len(transcript.turns)
        while few < many:
            middle = (few + many) // 2
            if len(self._without(transcript, history, prompt, middle).tokens) <= limit:
                many = middle
            else:
                few = middle + 1
        return self._without(transcript, history, prompt, few) if transcript.turns else prompt

    def _without(self, transcript: Transcript, history: array[int], prompt: Prompt, turns: int) -> Prompt:
        """Return `prompt` with the first `turns` turns left out."""
        shorter = transcript.fork()
        shorter.drop(turns)
        fragments = self._render(shorter, [*shorter.messages(), *prompt.messages])
        tokens = self._tokenizer.encode(fragments, begins=True)
        return Prompt(prompt.messages, tokens, common_prefix(history, tokens), turns, fragments)

    def _past(self, transcript: Transcript, rendered: list[Fragment] | None) -> list[Fragment]:
        """Return the fragments of the last prompt with its reply behind them."""
        if rendered is None:
            rendered = self._render(transcript, transcript.messages()[:-1])
        reply = transcript.turns[-1].reply
        marker = choose_marker([reply])
        return _join(rendered, self._tokenizer.fragments(self._tokenizer.guard(reply, marker), marker))

    def _render(self, transcript: Transcript, messages: Sequence[Message]) -> list[Fragment]:
        marker = choose_marker([*_texts(transcript.tools), *_texts(messages)])
        guarded = [self._guarded(message, marker) for message in messages]
        tools = [self._guarded_tool(tool, marker) for tool in transcript.tools]
        return self._tokenizer.fragments(self._template.render(guarded, transcript.opened, tools), marker)

    def _guarded(self, message: Message, marker: str) -> Message:
        def guard(text: str) -> str:
            return self._tokenizer.guard(text, marker)

        calls = tuple(
            ToolCall(guard(call.id), guard(call.name), self._guarded_json(call.arguments, marker))
            for call in message.calls
        )
        return replace(
            message,
            content=guard(message.content),
            calls=calls,
            call_id=guard(message.call_id),
            tool=guard(message.tool),
        )

    def _guarded_tool(self, tool: Tool, marker: str) -> Tool:
        return replace(
            tool,
            description=self._tokenizer.guard(tool.description, marker),
            parameters=self._guarded_json(tool.parameters, marker),
        )

    def _guarded_json(self, text: str, marker: str) -> str:
        """Guard the strings in a JSON text; raises InvalidArgument for what is none, or too deep."""

        def guarded(value: Any) -> Any:
            if isinstance(value, str):
                return self._tokenizer.guard(value, marker)
            if isinstance(value, dict):
                return {guarded(key): guarded(each) for key, each in value.items()}
            return [guarded(each) for each in value] if isinstance(value, list) else value

        try:
            return json.dumps(guarded(json.loads(text)), ensure_ascii=False)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"a tool or a call of one is not valid JSON: {error}") from error


def _texts(parts: Iterable[Message | Tool]) -> Iterator[str]:
    """Yield every text of messages and tools; JSON is one text, in which `json.loads` may find other characters."""
    for part in parts:
        if isinstance(part, Tool):
            yield from (part.name, part.description, _unescaped(part.parameters))
        else:
            yield from (part.content, part.call_id, part.tool)
            for call in part.calls:
                yield from (call.id, call.name, _unescaped(call.arguments))


def _unescaped(text: str) -> str:
    """Return a JSON text with its characters spelt as they are; one that is none is refused later."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _length(part: Message | Tool) -> int:
    """Return how many characters a message or tool has."""
    if isinstance(part, Tool):
        return len(part.name) + len(part.description) + len(part.parameters)
    return len(part.content) + sum(len(call.name) + len(call.arguments) for call in part.calls)


def _join(first: list[Fragment], second: list[Fragment]) -> list[Fragment]:
    """Concatenate fragments, with plain text that meets made one."""
    if first and second and isinstance(first[-1], str) and isinstance(second[0], str):
        return [*first[:-1], first[-1] + second[0], *second[1:]]
    return [*first, *second]


def _rest(whole: list[Fragment], past: list[Fragment]) -> list[Fragment] | None:
    """Return what follows `past` in `whole`, or None when `whole` does not begin with it."""
    if not past or len(whole) < len(past) or whole[: len(past) - 1] != past[:-1]:
        return None
    last, now = past[-1], whole[len(past) - 1]
    if last == now:
        return whole[len(past) :]
    if isinstance(last, str) and isinstance(now, str) and now.startswith(last):
        return [now[len(last) :], *whole[len(past) :]]
    return None
