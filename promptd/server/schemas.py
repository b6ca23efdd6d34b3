"""The bodies of requests, as pydantic models: OpenAI's names, strict types, unknown fields tolerated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from promptd.chat import ChatOptions, Message, Role

MAX_STOP_SEQUENCES = 16
MAX_CHOICES = 16
"""Most replies, and most prompts, of one request."""
_SEEDS = 2**32


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is not text") from None
    return text


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


Text = Annotated[str, AfterValidator(_encodable)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class ChatMessage(_Body):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text, BeforeValidator(_text_of)] = ""

    def as_message(self) -> Message:
        """Return the message promptd's lower floors speak of; `developer` is OpenAI's newer word for `system`."""
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, self.content)


class StreamOptions(_Body):
    """What a stream carries beside the reply."""

    include_usage: bool = False


class ResponseFormat(_Body):
    """What the reply is to look like."""

    type: str


class ChatRequest(_Body):
    """The body of `POST /v1/chat/completions`; `top_k`, `min_p` and `repeat_penalty` are as llama-server names them."""

    model: Text
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOP_SEQUENCES)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None

    @field_validator("response_format")
    @classmethod
    def _plain_text(cls, response_format: ResponseFormat | None) -> ResponseFormat | None:
        if response_format is not None and response_format.type != "text":
            raise ValueError(f"promptd cannot hold replies to {response_format.type!r}; only 'text' is offered")
        return response_format

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens disagree; give one of them")
        if self.stream and self.n not in (None, 1):
            raise ValueError("a stream carries one choice; leave n out, or stream out")
        return self

    def options(self) -> ChatOptions:
        """Return how the reply is to be sampled; what the request leaves out is the graph's own setting."""
        return ChatOptions(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=None if self.seed is None else self.seed % _SEEDS,
            stop=_stop(self.stop),
        )


class CompletionRequest(_Body):
    """The body of `POST /v1/completions`; OpenAI's default for `max_tokens` is 16."""

    model: Text
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = 16
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOP_SEQUENCES)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    @model_validator(mode="after")
    def _one_stream(self) -> CompletionRequest:
        if self.stream and (self.n not in (None, 1) or len(self.prompts()) > 1):
            raise ValueError("a stream carries one choice; give one prompt and no n, or leave stream out")
        return self

    def prompts(self) -> list[str]:
        """Return the texts to go on with."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def options(self) -> ChatOptions:
        """Return how the texts are to go on."""
        return ChatOptions(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=None if self.seed is None else self.seed % _SEEDS,
            stop=_stop(self.stop),
        )


def _text_of_input(content: Any) -> Any:
    """Return the text of an input item's content, which may come in parts."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        known = isinstance(part, dict) and part.get("type") in ("input_text", "output_text", "text")
        if not known or not isinstance(part.get("text"), str):
            raise ValueError("promptd takes text only: each part must be {'type': 'input_text', 'text': ...}")
        texts.append(part["text"])
    return "".join(texts)


class InputMessage(_Body):
    """One message of a response's input."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_text_of_input)]


class ResponsesRequest(_Body):
    """The body of `POST /v1/responses`."""

    model: Text
    input: Text | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: Text | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    previous_response_id: None = None
    """Nothing is stored, so there is nothing to go on from."""

    def messages(self) -> list[Message]:
        """Return the conversation that is asked for the next reply."""
        system = [Message("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*system, Message("user", self.input)]
        return [
            *system,
            *(Message("system" if each.role == "developer" else each.role, each.content) for each in self.input),
        ]

    def options(self) -> ChatOptions:
        """Return how the reply is to be sampled."""
        return ChatOptions(max_tokens=self.max_output_tokens, temperature=self.temperature, top_p=self.top_p)


def last_of_user(messages: Sequence[Message]) -> str:
    """Return the last user message, which is all a command guest reads; empty when there is none."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _stop(stop: str | list[str] | None) -> tuple[str, ...] | None:
    if stop is None:
        return None
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)


class OpenSession(_Body):
    """The body of `POST /v1/sessions`: what to talk to, a guest or a graph."""

    guest: Text | None = None
    graph: Text | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> OpenSession:
        if (self.guest is None) == (self.graph is None):
            raise ValueError("name either a guest or a graph")
        return self


class SessionMessage(_Body):
    """The body of `POST /v1/sessions/{id}/messages`: one user turn."""

    content: Text
    stream: bool = True
