"""The bodies of requests, as pydantic models: OpenAI's names, strict types, unknown fields tolerated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from promptd.chat import ChatOptions, Message, Role

MAX_STOP_SEQUENCES = 16
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
    n: int | None = None
    response_format: ResponseFormat | None = None

    @field_validator("n")
    @classmethod
    def _one_choice(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError("promptd gives one choice for each request; leave n out or make it 1")
        return n

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
        return self

    def options(self) -> ChatOptions:
        """Return how the reply is to be sampled; what the request leaves out is the graph's own setting."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        return ChatOptions(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=None if self.seed is None else self.seed % _SEEDS,
            stop=None if stop is None else tuple(text for text in stop if text),
        )


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
