"""A model's chat template: Jinja source from an untrusted file, rendered in a sandbox as Hugging Face transformers
renders it.

https://huggingface.co/docs/transformers/chat_templating says what a template may use. The sandbox keeps a template
from Python's objects; the limits here keep it from taking the worker's time and memory.
"""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from promptd.chat import Message, Tool
from promptd.engine.tool_words import in_words
from promptd.errors import InvalidArgument, PromptdError, RuntimeFailure

MAX_SOURCE_CHARACTERS = 1_000_000
MAX_OUTPUT_FACTOR = 16
"""A rendered conversation may be this many times its messages, ..."""
MAX_OUTPUT_BASE = 1_000_000
"""... plus this many characters."""
MAX_CPU_SECONDS = 5.0
"""Processor time one rendering may take; a usual one takes well under a millisecond."""
MAX_MEMORY = 512 * 1024**2
"""Bytes of address space one rendering may add to the worker's."""
MAX_OPERAND = 10_000_000
"""Largest number, or length of a product, that arithmetic in a template may reach."""


_PROBE = Tool("probe_tool", "Probes.", '{"type": "object", "properties": {}}')
"""A tool that no conversation has."""


class ChatTemplate(Protocol):
    """What makes one text of a conversation."""

    def render(self, messages: Sequence[Message], opened: float, tools: Sequence[Tool] = ()) -> str:
        """Return the conversation up to where the assistant's next reply begins; `opened` is the wall-clock time it
        began.
        """


class RawTemplate:
    """No template: the text of a conversation is the texts in it, one after another."""

    def render(self, messages: Sequence[Message], opened: float, tools: Sequence[Tool] = ()) -> str:
        return "".join(message.content for message in messages)


class _Refusal(Exception):
    """A template called raise_exception."""


class _TooMuch(Exception):
    """A template ran into a limit."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """transformers' environment, without the operators that make much out of little."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise _TooMuch(f"it uses the operator {operator} in a way that is not allowed")
        if operator == "*":
            sizes = [len(side) if hasattr(side, "__len__") else abs(side) for side in (left, right)]
            if sizes[0] * sizes[1] > MAX_OPERAND:
                raise _TooMuch("a product in it is too large")
        return super().call_binop(context, operator, left, right)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, with which some templates mark the assistant's text for training: here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class JinjaTemplate:
    """The template of one model."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        """Compile `source`; `variables` are texts such as bos_token. Raises RuntimeFailure when it is no template."""
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise RuntimeFailure(f"the model's chat template is longer than {MAX_SOURCE_CHARACTERS} characters")
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(variables, raise_exception=_refuse, strftime_now=time.strftime)
        with _guarded():
            self._template = environment.from_string(source)
        self._mentions_tools = "tools" in source

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template presents tools to the model: the name of one is in what it makes."""
        try:
            return self._mentions_tools and _PROBE.name in self._render([Message("user", "a")], 0.0, [_PROBE])
        except PromptdError:
            return False

    def render(self, messages: Sequence[Message], opened: float, tools: Sequence[Tool] = ()) -> str:
        """Return the rendered conversation.

        Where a template refuses a system message (Gemma's does), it is put before the first user message instead.
        Where it does not present tools, they and their calls are put in words. Raises InvalidArgument when the template
        refuses the messages, RuntimeFailure when it is faulty.
        """
        if (tools or any(message.calls for message in messages)) and not self.takes_tools:
            messages, tools = in_words(messages, tools), ()
        try:
            return self._render(messages, opened, tools)
        except InvalidArgument:
            merged = _merge_system(messages)
            if merged is None:
                raise
            return self._render(merged, opened, tools)
        except RuntimeFailure:  # functionary's takes the arguments of calls as text only
            if not any(message.calls for message in messages):
                raise
            return self._render(messages, opened, tools, parse_arguments=False)

    def _render(
        self, messages: Sequence[Message], opened: float, tools: Sequence[Tool], *, parse_arguments: bool = True
    ) -> str:
        sizes = (len(message.content) + sum(len(call.arguments) for call in message.calls) for message in messages)
        limit = MAX_OUTPUT_BASE + MAX_OUTPUT_FACTOR * (sum(sizes) + sum(len(tool.parameters) for tool in tools))
        began = time.localtime(opened)
        values: dict[str, Any] = {
            "messages": [_message(message, parse_arguments=parse_arguments) for message in messages],
            "add_generation_prompt": True,
            "strftime_now": lambda form: time.strftime(form, began),
        }
        if tools:
            values["tools"] = [_tool(tool) for tool in tools]
        parts = []
        with _guarded():
            for part in self._template.generate(values):
                parts.append(part)
                limit -= len(part)
                if limit < 0:
                    raise _TooMuch("it makes too much text")
        return "".join(parts)


def _message(message: Message, *, parse_arguments: bool) -> dict[str, Any]:
    """Return a message as templates know it: arguments of calls are objects in most, text in some."""
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.loads(call.arguments) if parse_arguments else call.arguments,
                },
            }
            for call in message.calls
        ]
    if message.call_id:
        told["tool_call_id"] = message.call_id
    if message.tool:
        told["name"] = message.tool
    return told


def _tool(tool: Tool) -> dict[str, Any]:
    """Return a tool as templates know it, which is as OpenAI's clients send it."""
    parameters = json.loads(tool.parameters)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """Return the messages with a leading system message put into the user message after it, or None where that does
    not apply.
    """
    match messages:
        case [Message(role="system") as system, Message(role="user") as user, *rest]:
            return [Message(role="user", content=f"{system.content}\n\n{user.content}"), *rest]
    return None


def _refuse(reason: object) -> None:
    raise _Refusal(str(reason)[:200])


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes HTML; models were trained without that."""
    allowed = {key: options[key] for key in ("separators", "sort_keys") if key in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **allowed)


@contextmanager
def _guarded() -> Iterator[None]:
    """Run template code with limits on processor time and memory, and turn whatever it raises into one sentence.

    The limit on time is a timer signal, so it works in the main thread only, which in the worker is the one that steps.
    """

    def expire(number: int, frame: FrameType | None) -> None:
        raise _TooMuch(f"it takes more than {MAX_CPU_SECONDS:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = _address_space() + MAX_MEMORY
    if soft == resource.RLIM_INFINITY or allowed < soft:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    previous = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU_SECONDS)
    try:
        yield
    except PromptdError:
        raise
    except _Refusal as refusal:
        raise InvalidArgument(f"the model's chat template refuses these messages: {refusal}") from refusal
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, MemoryError):
            reason = "it takes too much memory"
        raise RuntimeFailure(
            f'the model\'s chat template fails: {reason}; set template = "none" to do without it'
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Return the bytes of address space this process has; where /proc is missing (macOS), enough for any process."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 2**46
