"""What requests are answered with, as pydantic models, by which `/openapi.json` describes replies.

The routes build their bodies as plain dictionaries; tests hold those to these models.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Responses = dict[int | str, dict[str, Any]]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetails(_Document):
    message: str
    """One sentence."""
    type: str
    param: str | None
    code: str | None


class Error(_Document):
    """Every failure, as OpenAI's."""

    error: ErrorDetails


class OllamaError(_Document):
    """Every failure of Ollama's routes."""

    error: str


class CachedTokens(_Document):
    cached_tokens: int


class Usage(_Document):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Function(_Document):
    name: str
    arguments: str
    """A JSON object, as text."""


class Call(_Document):
    id: str
    type: Literal["function"]
    function: Function


class AssistantMessage(_Document):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[Call] = []


class Scored(_Document):
    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(Scored):
    top_logprobs: list[Scored]


class ChatLogprobs(_Document):
    content: list[ScoredToken]
    refusal: None


class ChatChoice(_Document):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(_Document):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(_Document):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Document):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(_Document):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Vector(_Document):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers, or 32-bit floats in base64."""


class EmbeddingUsage(_Document):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(_Document):
    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: EmbeddingUsage


class Model(_Document):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Document):
    object: Literal["list"]
    data: list[Model]


class Session(_Document):
    id: str
    object: Literal["session"]
    guest: str | None
    graph: str | None
    owner: str | None
    """The name of the key it was opened with."""
    created: int
    turns: int
    busy: bool
    last_event: int


class SessionList(_Document):
    object: Literal["list"]
    data: list[Session]
    has_more: bool


class SessionReply(_Document):
    role: Literal["assistant"]
    content: str
    stop_reason: Literal["end-of-turn", "stop-sequence", "max-tokens", "context-full", "cancelled"]
    usage: Usage


class Cancelled(_Document):
    cancelled: bool


class Guest(_Document):
    object: Literal["guest"]
    name: str
    uploaded: bool
    format: Literal["component", "core"] | None
    kinds: list[Literal["handler", "command"]]
    sha256: str | None


class GuestList(_Document):
    object: Literal["list"]
    data: list[Guest]


class Response(BaseModel):
    """A response of `/v1/responses`; what it repeats of its request is not listed."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None


class OllamaFunction(_Document):
    name: str
    arguments: dict[str, Any]


class OllamaCall(_Document):
    function: OllamaFunction


class OllamaAnswer(_Document):
    role: Literal["assistant"]
    content: str
    tool_calls: list[OllamaCall] = []


class _Line(_Document):
    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | None = None
    total_duration: int = 0
    """Durations are nanoseconds."""
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatLine(_Line):
    message: OllamaAnswer


class GenerateLine(_Line):
    response: str


class OllamaEmbeddings(_Document):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbedding(_Document):
    embedding: list[float]


class OllamaModel(BaseModel):
    name: str
    model: str
    size: int
    digest: str
    details: dict[str, Any]


class OllamaModels(_Document):
    models: list[OllamaModel]


class OllamaShown(BaseModel):
    name: str
    details: dict[str, Any]
    info: dict[str, Any] = Field(alias="model_info")
    template: str
    capabilities: list[Literal["completion", "tools", "embedding"]]


class Version(_Document):
    version: str


class PullLine(_Document):
    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None


OPENAI_ERRORS: Responses = {
    "4XX": {"model": Error, "description": "The request is wrong, or not allowed; `message` says why."},
    "5XX": {"model": Error, "description": "promptd, a model or a guest failed, or is busy."},
}
OLLAMA_ERRORS: Responses = {status: {**about, "model": OllamaError} for status, about in OPENAI_ERRORS.items()}


def answer(model: type[BaseModel], streams: str | None = None, status: int = 200) -> Responses:
    """Return the documentation of a route that answers with `model`, or with a stream of the media type `streams`."""
    about: dict[str, Any] = {"model": model, "description": "The whole answer, or a stream of it."}
    if streams:
        about["content"] = {streams: {"schema": {"type": "string"}}}
    return {status: about}
