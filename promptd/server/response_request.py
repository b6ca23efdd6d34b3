"""The body of `POST /v1/responses`: a conversation as items, tools and a format, all in shapes of their own.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from promptd.chat import MAX_LOGPROBS, ChatOptions, Message, ToolCall
from promptd.server.body import Body, Many, Text, at_most, json_text
from promptd.server.formats import ANY_OBJECT
from promptd.server.tools import MAX_TOOLS, Allowed, Arguments, Offer, ToolName, offer, tool_of

MAX_METADATA = 16
"""Pairs of metadata, as OpenAI has it."""

LOGPROBS = "message.output_text.logprobs"
"""In `include`, asks how likely the model thought the tokens of its reply."""


def _text_of(content: Any) -> Any:
    """Return the text of an item, which may come in parts."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        known = isinstance(part, dict) and part.get("type") in ("input_text", "output_text", "text")
        if not known or not isinstance(part.get("text"), str):
            raise ValueError("promptd takes text only: each part must be {'type': 'input_text', 'text': ...}")
        texts.append(part["text"])
    return "".join(texts)


PartedText = Annotated[Text, BeforeValidator(_text_of)]


class InputMessage(Body):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: PartedText


class InputCall(Body):
    """A call that the model asked for."""

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Arguments


class InputAnswer(Body):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: Text
    output: PartedText


def _kind(item: Any) -> Any:
    """Return what kind of item this is; that of a message need not be said."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputAnswer, Tag("function_call_output")],
    Discriminator(_kind),
]


class FunctionTool(Body):
    """A function the model may ask for."""

    type: Literal["function"]
    name: ToolName
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class FunctionChoice(Body):
    """The one function the model has to ask for."""

    type: Literal["function"]
    name: Text

    def allowed(self) -> Allowed:
        """Return what this lets the model do."""
        return Allowed((self.name,), required=True)


class AllowedChoice(Body):
    """The functions the model may ask for, which are not all it is told of; or has to."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1, max_length=MAX_TOOLS)]

    def allowed(self) -> Allowed:
        """Return what this lets the model do."""
        return Allowed(tuple(tool.name for tool in self.tools), required=self.mode == "required")


class TextFormat(Body):
    """What text the model may say; a schema stands beside its name here."""

    type: Literal["text", "json_object", "json_schema"]
    body: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.body is not None):
            raise ValueError("the type 'json_schema' and the field schema go together")
        if self.body is not None:
            json_text(self.body)
        return self


class TextSettings(Body):
    """How the model answers in text."""

    format: TextFormat | None = None


class ResponsesRequest(Body):
    """The body of `POST /v1/responses`."""

    model: Text
    input: Text | Annotated[list[InputItem], Field(min_length=1), Many]
    instructions: Text | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    text: TextSettings | None = None
    include: Annotated[list[Text], Many] | None = None
    """What a response carries beside the reply; only LOGPROBS is known, the rest is of what promptd has not."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[FunctionChoice | AllowedChoice, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[Text, Text], at_most(MAX_METADATA)] | None = None
    previous_response_id: None = None
    """Nothing is stored, so there is nothing to go on from."""
    conversation: None = None
    background: Literal[False] | None = None
    """Nor can a response be fetched later."""

    @model_validator(mode="after")
    def _logprobs_are_asked_for(self) -> ResponsesRequest:
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise ValueError(f"top_logprobs needs include to have {LOGPROBS!r}")
        return self

    def messages(self) -> list[Message]:
        """Return the conversation that is asked for the next reply."""
        told = [Message("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*told, Message("user", self.input)]
        names = {item.call_id: item.name for item in self.input if isinstance(item, InputCall)}
        for item in self.input:
            if isinstance(item, InputMessage):
                told.append(Message("system" if item.role == "developer" else item.role, item.content))
            elif isinstance(item, InputAnswer):
                tool = names.get(item.call_id, "")
                told.append(Message("tool", item.output, call_id=item.call_id, tool=tool))
            else:
                before = told.pop() if told and told[-1].role == "assistant" else Message("assistant", "")
                call = ToolCall(item.call_id, item.name, item.arguments)
                told.append(replace(before, calls=(*before.calls, call)))
        return told

    def offer(self) -> Offer:
        """Return the tools offered, and what the reply has to look like; raises InvalidField."""
        choice = self.tool_choice
        return offer(
            [tool_of(tool.name, tool.description, tool.parameters) for tool in self.tools or ()],
            choice if choice is None or isinstance(choice, str) else choice.allowed(),
            self._reply_schema(),
        )

    def options(self, offered: Offer) -> ChatOptions:
        """Return how the reply is to be sampled."""
        return ChatOptions(
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            json_schema=offered.schema,
            logprobs=(self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None,
        )

    def echoed(self) -> dict[str, Any]:
        """Return what a response repeats of its request."""
        asked = self.model_dump(
            include={"model", "instructions", "max_output_tokens", "temperature", "top_p"}, by_alias=True
        )
        given = {"type": "text"}
        if self.text and self.text.format:
            given = self.text.format.model_dump(exclude_none=True, by_alias=True)
        tools = [{"strict": False, **tool.model_dump()} for tool in self.tools or ()]
        choice = self.tool_choice
        return {
            **asked,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "text": {"format": {"name": "reply", **given} if given["type"] == "json_schema" else given},
            "tool_choice": choice.model_dump() if isinstance(choice, Body) else choice or "auto",
            "top_logprobs": self.top_logprobs or 0,
            "tools": tools,
            "truncation": "disabled",
        }

    def _reply_schema(self) -> str | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        return ANY_OBJECT if wanted.body is None else json_text(wanted.body)
