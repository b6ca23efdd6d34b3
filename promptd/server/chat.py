"""OpenAI's routes: chat completions of graphs and guests, and the list of both.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from promptd.chat import Completion, StopReason, TokenLogprob, Tool, ToolCall, Usage
from promptd.errors import PromptdError
from promptd.server import documents
from promptd.server.choices import start_choices, stream_choices, whole_choices
from promptd.server.conversations import Conversations
from promptd.server.errors import UnknownModel, error_body
from promptd.server.logprobs import chat_logprobs, logprobs_of
from promptd.server.replies import sse
from promptd.server.schemas import ChatRequest
from promptd.server.tool_calls import CallReader, read_calls

_FINISH_REASONS = {StopReason.MAX_TOKENS: "length", StopReason.CONTEXT_FULL: "length"}
"""OpenAI's word for why a reply ended; all others are "stop"."""

DONE = b"data: [DONE]\n\n"
"""Ends OpenAI's older streams."""


def chat_router(conversations: Conversations) -> APIRouter:
    """Return the routes under `/v1` that OpenAI's clients know."""
    router = APIRouter(prefix="/v1", tags=["openai"])
    started = int(time.time())

    @router.post("/chat/completions", responses=documents.answer(documents.ChatCompletion, "text/event-stream"))
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Answer the messages of one request; nothing of it is kept."""
        messages = [message.as_message() for message in body.messages]
        offered = body.offer()
        options, tools = body.options(offered), offered.tools
        choices = await start_choices(conversations, body.model, [messages], options, body.n or 1, tools=tools)
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            return await stream_choices(request, choices, _Chunks(body.model, tools, include_usage=include_usage))
        replies = await whole_choices(request, choices)
        return JSONResponse(_completion(body.model, replies, tools, scored=bool(body.logprobs)))

    @router.get("/models", responses=documents.answer(documents.ModelList))
    async def list_models() -> dict[str, Any]:
        """List the graphs, and the guests as `guest/NAME`."""
        return {"object": "list", "data": [_model(name, started) for name in conversations.models()]}

    @router.get("/models/{name:path}", responses=documents.answer(documents.Model))
    async def retrieve_model(name: str) -> dict[str, Any]:
        """Describe one model."""
        if name not in conversations.models():
            raise UnknownModel(name)
        return _model(name, started)

    return router


def usage_body(usage: Usage) -> dict[str, Any]:
    """Return `usage` in OpenAI's shape."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "total_tokens": usage.prompt + usage.generated,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def usage_of_all(replies: Sequence[Completion], firsts: Sequence[Completion]) -> dict[str, Any]:
    """Return the usage of several replies; as OpenAI does, each prompt counts once, with the first reply to it."""
    prompts = sum((reply.usage for reply in firsts), Usage(0, 0, 0))
    generated = sum(reply.usage.generated for reply in replies)
    return usage_body(Usage(prompts.prompt, prompts.cached, generated))


def finish_reason(completion: Completion, calls: Sequence[ToolCall] = ()) -> str:
    """Return OpenAI's word for why a reply ended, with `calls` or without."""
    return _FINISH_REASONS.get(completion.stop_reason, "tool_calls" if calls else "stop")


def call_body(call: ToolCall) -> dict[str, Any]:
    """Return a call in OpenAI's shape."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class _Chunks:
    """The stream of one chat completion, whose choices come as they are made."""

    def __init__(self, model: str, tools: Sequence[Tool], *, include_usage: bool) -> None:
        self._head = _head("chat.completion.chunk", model)
        self._tools = tools
        self._readers: list[CallReader] = []
        self._include_usage = include_usage

    def begin(self, choices: int) -> bytes:
        self._readers = [CallReader(self._tools) for _ in range(choices)]
        return b"".join(self._choice(index, {"role": "assistant", "content": ""}) for index in range(choices))

    def piece(self, index: int, text: str) -> bytes:
        said, tokens = self._readers[index].feed(text), logprobs_of(text)
        return self._choice(index, {"content": said}, tokens=tokens) if said or tokens else b""

    def end(self, index: int, completion: Completion) -> bytes:
        rest, calls = self._readers[index].finish()
        last = self._choice(index, {"content": rest}) if rest else b""
        for number, call in enumerate(calls):
            last += self._choice(index, {"tool_calls": [{"index": number, **call_body(call)}]})
        return last + self._choice(index, {}, finish_reason(completion, calls))

    def close(self, completions: Sequence[Completion]) -> bytes:
        usage = {**self._head, "choices": [], "usage": usage_of_all(completions, completions[:1])}
        return (sse(usage) if self._include_usage else b"") + DONE

    def fail(self, error: PromptdError) -> bytes:
        return sse(error_body(error))

    def _choice(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, tokens: Sequence[TokenLogprob] = ()
    ) -> bytes:
        scores = chat_logprobs(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish_reason}
        return sse({**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})})


def _completion(model: str, replies: list[Completion], tools: Sequence[Tool], *, scored: bool) -> dict[str, Any]:
    listed = []
    for index, reply in enumerate(replies):
        text, calls = read_calls(reply.text, tools)
        message: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
        if calls:
            message["tool_calls"] = [call_body(call) for call in calls]
        reason = finish_reason(reply, calls)
        scores = chat_logprobs(reply.logprobs) if scored else None
        listed.append({"index": index, "message": message, "logprobs": scores, "finish_reason": reason})
    return {**_head("chat.completion", model), "choices": listed, "usage": usage_of_all(replies, replies[:1])}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "promptd"}
