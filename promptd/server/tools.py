"""Tools as OpenAI's and Ollama's clients offer them, and what a request lets the model do with them.

https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from promptd.chat import Tool, ToolCall
from promptd.server.body import Body, Text, json_object, json_text
from promptd.server.errors import InvalidField
from promptd.server.reply_schema import reply_schema

MAX_TOOLS = 128

NO_PARAMETERS = '{"type": "object", "properties": {}}'

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$")]


class FunctionOffered(Body):
    """A function the model may ask for."""

    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object."""


class ToolOffered(Body):
    """A tool the model may ask for; functions are the only kind."""

    type: Literal["function"]
    function: FunctionOffered

    def as_tool(self) -> Tool:
        """Return the tool promptd's lower floors speak of; raises InvalidField."""
        return tool_of(self.function.name, self.function.description, self.function.parameters)


class FunctionNamed(Body):
    """The name of one function."""

    name: Text


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which of the tools a reply may call, and whether it has to call one."""

    names: tuple[str, ...]
    required: bool


class ToolNamed(Body):
    """The one tool the model has to ask for."""

    type: Literal["function"]
    function: FunctionNamed

    def allowed(self) -> Allowed:
        """Return what this lets the model do."""
        return Allowed((self.function.name,), required=True)


class ToolsListed(Body):
    """Some of the tools, and whether the model may ask for one of them or has to."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolNamed], Field(min_length=1, max_length=MAX_TOOLS)]


class ToolsAllowed(Body):
    """The tools the model may ask for, which are not all it is told of."""

    type: Literal["allowed_tools"]
    allowed_tools: ToolsListed

    def allowed(self) -> Allowed:
        """Return what this lets the model do."""
        names = tuple(tool.function.name for tool in self.allowed_tools.tools)
        return Allowed(names, required=self.allowed_tools.mode == "required")


ToolChoice = Literal["none", "auto", "required"] | Annotated[ToolNamed | ToolsAllowed, Field(discriminator="type")]


def _arguments(value: Any) -> Any:
    """Return a call's arguments as JSON text: OpenAI's clients send that, Ollama's an object."""
    if isinstance(value, dict):
        return json_text(value)
    if not isinstance(value, str):
        return value
    try:
        json_object(value or "{}")
    except ValueError as error:
        raise ValueError(f"the arguments of a call have to be a JSON object: {error}") from error
    return value or "{}"


Arguments = Annotated[Text, BeforeValidator(_arguments)]


class FunctionCalled(Body):
    """What a call is of."""

    name: Text
    arguments: Arguments


class CallMade(Body):
    """A call in an assistant's message."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: FunctionCalled

    def as_call(self) -> ToolCall:
        """Return the call promptd's lower floors speak of."""
        return ToolCall(self.id, self.function.name, self.function.arguments)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a request offers the model: tools, whether it must call one, and what its reply has to look like."""

    tools: tuple[Tool, ...] = ()
    forced: tuple[Tool, ...] = ()
    """Of which one has to be called, if there are any."""
    reply: str | None = None
    """A JSON schema of a reply that is no call."""

    @property
    def schema(self) -> str | None:
        """The JSON schema that holds the model to the request, None where any text will do."""
        if self.forced:
            return reply_schema(self.forced, None)
        return reply_schema(self.tools, self.reply) if self.reply else None


def tool_of(name: str, description: str | None, parameters: dict[str, Any] | None) -> Tool:
    """Return a tool; raises InvalidField when its parameters are no schema of an object."""
    if parameters and parameters.get("type", "object") != "object":
        raise InvalidField(f"the parameters of {name} have to be a JSON schema with the type 'object'", "tools")
    try:
        return Tool(name, description or "", json_text(parameters) if parameters else NO_PARAMETERS)
    except ValueError as error:
        raise InvalidField(f"the parameters of {name}: {error}", "tools") from error


def offer(tools: Sequence[Tool], choice: str | Allowed | None, reply: str | None = None) -> Offer:
    """Return what is offered: `choice` is none, auto, required, or which of the tools may or must be called.

    `reply` is a JSON schema of replies that are no call. Raises InvalidField.
    """
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidField("two tools have the same name", "tools")
    if not tools and (isinstance(choice, Allowed) or choice == "required"):
        raise InvalidField("a tool_choice that asks for a call needs tools", "tool_choice")
    if choice == "none":
        return Offer(reply=reply)
    if not isinstance(choice, Allowed):
        return Offer(tuple(tools), tuple(tools) if choice == "required" else (), reply)
    if unknown := set(choice.names) - {tool.name for tool in tools}:
        raise InvalidField(f"there is no tool {min(unknown)!r} in tools", "tool_choice")
    allowed = tuple(tool for tool in tools if tool.name in choice.names)
    # A model held to a call is told of all tools, so that what it has read of them stays in its cache; one that is not
    # held would call what it is told of.
    return Offer(tuple(tools), allowed, reply) if choice.required else Offer(allowed, (), reply)
