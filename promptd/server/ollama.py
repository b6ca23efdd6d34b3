"""Ollama's routes that make replies, for its clients: chat and generate, over the same conversations.

https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field

from promptd.chat import ChatOptions, Completion, Message, StopReason, Tool, ToolCall
from promptd.errors import PromptdError, UnsupportedOperation
from promptd.server import documents
from promptd.server.body import Body, Many, SamplingFields, Text, json_text
from promptd.server.conversations import Conversations
from promptd.server.errors import InvalidField, ScopeMissing
from promptd.server.formats import ANY_OBJECT
from promptd.server.keep_alive import KeepAlive, keep_alive
from promptd.server.keys import current_client
from promptd.server.replies import stream, whole
from promptd.server.schemas import ChatMessage
from promptd.server.tool_calls import CallReader, read_calls
from promptd.server.tools import MAX_TOOLS, ToolOffered, offer

_LATEST = ":latest"
"""The tag Ollama's clients add to a name that has none."""


class _Body(Body):
    model_config = ConfigDict(strict=False)


class Options(SamplingFields):
    """How a reply is sampled; what is left out is the graph's own setting. -1 and -2 tokens are "no limit"."""

    model_config = ConfigDict(strict=False)

    num_predict: int | None = None

    def chat_options(self, schema: str | None) -> ChatOptions:
        """Return what promptd's lower floors call these options; `schema` is what the reply keeps to."""
        limit = self.num_predict if self.num_predict and self.num_predict > 0 else None
        return self.sampling(max_tokens=limit, json_schema=schema)


NoImages = Annotated[list[Any], Field(max_length=0)] | None
"""Models see no images here."""


class _ReplyBody(_Body):
    """What the bodies of both routes that make replies have in common."""

    model: Text
    stream: bool = True
    options: Options | None = None
    keep_alive: KeepAlive | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    """What the reply is to look like: any JSON object, or what a JSON schema says."""

    def schema_text(self) -> str | None:
        """Return the JSON schema that the reply keeps to, None where it may be any text."""
        if not isinstance(self.format, dict):
            return ANY_OBJECT if self.format else None
        try:
            return json_text(self.format)
        except ValueError as error:
            raise InvalidField(f"format: {error}", "format") from error


class OllamaMessage(ChatMessage):
    """One message, with the name of a tool where Ollama's clients put it."""

    tool_name: Text | None = None
    images: NoImages = None

    def as_message(self) -> Message:
        """Return the message promptd's lower floors speak of."""
        message = super().as_message()
        return replace(message, tool=self.tool_name) if self.tool_name and self.role == "tool" else message


class ChatBody(_ReplyBody):
    """The body of `POST /api/chat`."""

    messages: Annotated[list[OllamaMessage], Many] = Field(default_factory=list)
    tools: Annotated[list[ToolOffered], Field(max_length=MAX_TOOLS)] | None = None


class GenerateBody(_ReplyBody):
    """The body of `POST /api/generate`."""

    prompt: Text = ""
    system: Text | None = None
    raw: bool = False
    """Go on with the prompt as it is, without the model's chat template."""
    images: NoImages = None
    suffix: Annotated[Text, Field(max_length=0)] | None = None
    """A middle cannot be filled in: refused."""


def ollama_router(conversations: Conversations) -> APIRouter:
    """Return the routes under `/api` that make replies."""
    router = APIRouter(prefix="/api", tags=["ollama"], responses=documents.OLLAMA_ERRORS)

    async def answer(
        request: Request,
        body: ChatBody | GenerateBody,
        messages: Sequence[Message],
        shape: str,
        tools: Sequence[Tool] = (),
        *,
        raw: bool = False,
    ) -> Response:
        lines = _Lines(body.model, shape, tools)
        model = _name(body.model)
        if not messages:  # Ollama's way to load a model ahead of time, or to unload it
            unload = body.keep_alive == 0
            if unload and "admin" not in current_client().scopes:
                raise ScopeMissing("admin")
            if unload:
                conversations.check(model)
            else:
                await conversations.load(model)
            keep_alive(conversations, model, body.keep_alive)
            return JSONResponse(lines.line("", done=True, done_reason="unload" if unload else "load"))
        offered = offer(tools, None, body.schema_text())
        if tools and not await conversations.takes_tools(model):
            raise UnsupportedOperation(f"{body.model} does not support tools")
        options = (body.options or Options()).chat_options(offered.schema)
        turn = await conversations.answer(model, messages, options, tools=tools, raw=raw)
        keep_alive(conversations, model, body.keep_alive)
        if body.stream:
            return await stream(request, turn, lines)
        completion = await whole(request, turn, lines.heard)
        said, calls = read_calls(completion.text, tools)
        return JSONResponse({**lines.last(completion), **lines.content(said, calls)})

    @router.post("/chat", responses=documents.answer(documents.ChatLine, "application/x-ndjson"))
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer the messages of one request."""
        tools = [tool.as_tool() for tool in body.tools or ()]
        return await answer(request, body, [message.as_message() for message in body.messages], "chat", tools)

    @router.post("/generate", responses=documents.answer(documents.GenerateLine, "application/x-ndjson"))
    async def generate(body: GenerateBody, request: Request) -> Response:
        """Answer one prompt, through the model's chat template unless it is raw."""
        system = [Message("system", body.system)] if body.system and not body.raw else []
        user = [Message("user", body.prompt)] if body.prompt else []
        return await answer(request, body, [*system, *user] if user else [], "generate", raw=body.raw)

    @router.get("/version", responses=documents.answer(documents.Version))
    async def read_version() -> dict[str, str]:
        """Return promptd's version."""
        return {"version": version("promptd")}

    return router


class _Lines:
    """The stream of one reply: JSON objects, one in each line."""

    media_type = "application/x-ndjson"
    keep_alive = b""

    def __init__(self, model: str, shape: str, tools: Sequence[Tool]) -> None:
        self._reader = CallReader(tools)
        self._model = model
        self._shape = shape
        self._began = time.perf_counter_ns()
        self._first: int | None = None

    def begin(self) -> bytes:
        return b""

    def heard(self) -> None:
        """Note that a piece has come: from the first on, the reply is being made."""
        self._first = self._first or time.perf_counter_ns()

    def piece(self, text: str) -> bytes:
        self.heard()
        said = self._reader.feed(text)
        return _encoded(self.line(said)) if said else b""

    def end(self, completion: Completion) -> bytes:
        rest, calls = self._reader.finish()
        before = _encoded({**self.line(rest), **self.content(rest, calls)}) if rest or calls else b""
        return before + _encoded(self.last(completion))

    def fail(self, error: PromptdError) -> bytes:
        return _encoded({"error": str(error)})

    def line(self, text: str, **more: Any) -> dict[str, Any]:
        head = {"model": self._model, "created_at": _now(), "done": False}
        return {**head, **self.content(text), **more}

    def content(self, text: str, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        if self._shape == "generate":
            return {"response": text}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in calls
            ]
        return {"message": message}

    def last(self, completion: Completion) -> dict[str, Any]:
        """Return the last line; durations are nanoseconds."""
        now = time.perf_counter_ns()
        first = self._first or now
        cut = completion.stop_reason in (StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL)
        return self.line(
            "",
            done=True,
            done_reason="length" if cut else "stop",
            total_duration=now - self._began,
            load_duration=0,
            prompt_eval_count=completion.usage.prompt,
            prompt_eval_duration=first - self._began,
            eval_count=completion.usage.generated,
            eval_duration=now - first,
        )


def _name(model: str) -> str:
    return model.removesuffix(_LATEST)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
