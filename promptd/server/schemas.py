"""The bodies of requests, as pydantic models: OpenAI's names, strict types, unknown fields tolerated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from promptd.chat import MAX_LOGPROBS, ChatOptions, Message, Role
from promptd.server.body import Body, Many, SamplingFields, Text
from promptd.server.formats import ResponseFormat
from promptd.server.tools import MAX_TOOLS, CallMade, Offer, ToolChoice, ToolOffered, offer

MAX_CHOICES = 16
"""Most replies, and most prompts, of one request."""


def _text_of(content: Any) -> Any:
    """Return the text of a message's content, which may come in parts, or be null beside tool calls."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("promptd takes text only: each part must be {'type': 'text', 'text': ...}")
        texts.append(part["text"])
    return "".join(texts)


class ChatMessage(Body):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text, BeforeValidator(_text_of)] = ""
    tool_calls: Annotated[list[CallMade], Many] | None = None
    """What an assistant asked for."""
    tool_call_id: Text | None = None
    """Which call a tool's message answers."""
    name: Text | None = None

    @model_validator(mode="after")
    def _calls_are_the_assistants(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls are part of an assistant's message")
        return self

    def as_message(self) -> Message:
        """Return the message promptd's lower floors speak of; `developer` is OpenAI's newer word for `system`."""
        role: Role = "system" if self.role == "developer" else self.role
        calls = tuple(call.as_call() for call in self.tool_calls or ())
        tool = self.name or "" if role == "tool" else ""
        return Message(role, self.content, calls, self.tool_call_id or "", tool)


class StreamOptions(Body):
    """What a stream carries beside the reply."""

    include_usage: bool = False


class ChatRequest(SamplingFields):
    """The body of `POST /v1/chat/completions`."""

    model: Text
    messages: Annotated[list[ChatMessage], Field(min_length=1), Many]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolOffered], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """Accepted; how many calls there are is the model's to say, and one where it is held to a call."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    functions: None = None
    """OpenAI's older form of tools, refused."""
    function_call: None = None

    @model_validator(mode="after")
    def _logprobs_are_asked_for(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens disagree; give one of them")
        return self

    def offer(self) -> Offer:
        """Return the tools offered, and what the reply has to look like; raises InvalidField."""
        choice = self.tool_choice
        return offer(
            [tool.as_tool() for tool in self.tools or ()],
            choice if choice is None or isinstance(choice, str) else choice.allowed(),
            self.response_format.schema_text() if self.response_format else None,
        )

    def options(self, offered: Offer) -> ChatOptions:
        """Return how the reply is to be sampled; what the request leaves out is the graph's own setting."""
        return self.sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            json_schema=offered.schema,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class CompletionRequest(SamplingFields):
    """The body of `POST /v1/completions`; OpenAI's default for `max_tokens` is 16."""

    model: Text
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = 16
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    """Neither the prompt nor a middle can be part of a reply: refused."""

    def prompts(self) -> list[str]:
        """Return the texts to go on with."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def options(self) -> ChatOptions:
        """Return how the texts are to go on."""
        return self.sampling(max_tokens=self.max_tokens, logprobs=self.logprobs)


class OpenSession(Body):
    """The body of `POST /v1/sessions`: what to talk to, a guest or a graph."""

    guest: Text | None = None
    graph: Text | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> OpenSession:
        if (self.guest is None) == (self.graph is None):
            raise ValueError("name either a guest or a graph")
        return self


class SessionMessage(Body):
    """The body of `POST /v1/sessions/{id}/messages`: one user turn."""

    content: Text
    stream: bool = True


class ForkSession(Body):
    """The body of `POST /v1/sessions/{id}/fork`."""

    rewind: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """How many of the last turns the fork is to leave out."""


class RewindSession(Body):
    """The body of `POST /v1/sessions/{id}/rewind`."""

    turns: Annotated[int, Field(ge=0, lt=2**31)] = 1


class SocketMessage(Body):
    """What a client sends over a session's WebSocket: a user message, or the wish to hear no more of the reply."""

    type: Literal["message", "cancel"]
    content: Text = ""

    @model_validator(mode="after")
    def _has_content(self) -> SocketMessage:
        if self.type == "message" and "content" not in self.model_fields_set:
            raise ValueError("a message needs content")
        return self
