"""OpenAI's older completions: `POST /v1/completions` goes on with a text, without the model's chat template.

https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from promptd.chat import Completion, Message
from promptd.errors import PromptdError
from promptd.server import documents
from promptd.server.chat import finish_reason, usage_body, usage_of_all
from promptd.server.choices import choices
from promptd.server.conversations import Conversations
from promptd.server.errors import error_body
from promptd.server.logprobs import CompletionLogprobs, logprobs_of
from promptd.server.replies import ServerSentEvents, sse, stream
from promptd.server.schemas import CompletionRequest


def completions_router(conversations: Conversations) -> APIRouter:
    """Return the route of completions."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/completions", responses=documents.answer(documents.TextCompletion, "text/event-stream"))
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Go on with one or several texts."""
        prompts = [[Message("user", text)] for text in body.prompts()]
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            turn = await conversations.answer(body.model, prompts[0], body.options(), raw=True)
            return await stream(request, turn, _Chunks(body.model, include_usage=include_usage))
        replies = await choices(request, conversations, body.model, prompts, body.options(), body.n or 1, raw=True)
        texts = []
        for index, reply in enumerate(replies):
            scores = None if body.logprobs is None else CompletionLogprobs().of(reply.logprobs)
            texts.append(_choice(index, reply.text, finish_reason(reply), scores))
        firsts = replies[:: body.n or 1]
        return JSONResponse({**_head(body.model), "choices": texts, "usage": usage_of_all(replies, firsts)})

    return router


class _Chunks(ServerSentEvents):
    """The stream of one completion."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._head = _head(model)
        self._include_usage = include_usage
        self._logprobs = CompletionLogprobs()

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        tokens = logprobs_of(text)
        return sse({**self._head, "choices": [_choice(0, text, None, self._logprobs.of(tokens) if tokens else None)]})

    def end(self, completion: Completion) -> bytes:
        last = sse({**self._head, "choices": [_choice(0, "", finish_reason(completion))]})
        if self._include_usage:
            last += sse({**self._head, "choices": [], "usage": usage_body(completion.usage)})
        return last + b"data: [DONE]\n\n"

    def fail(self, error: PromptdError) -> bytes:
        return sse(error_body(error))


def _head(model: str) -> dict[str, Any]:
    identifier = f"cmpl-{secrets.token_hex(12)}"
    return {"id": identifier, "object": "text_completion", "created": int(time.time()), "model": model}


def _choice(index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
