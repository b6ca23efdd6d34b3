"""OpenAI's older completions: `POST /v1/completions` goes on with a text, without the model's chat template.

https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from promptd.chat import Completion, Message
from promptd.errors import PromptdError
from promptd.server import documents
from promptd.server.chat import DONE, finish_reason, usage_of_all
from promptd.server.choices import start_choices, stream_choices, whole_choices
from promptd.server.conversations import Conversations
from promptd.server.errors import error_body
from promptd.server.logprobs import CompletionLogprobs, logprobs_of
from promptd.server.replies import sse
from promptd.server.schemas import CompletionRequest


def completions_router(conversations: Conversations) -> APIRouter:
    """Return the route of completions."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/completions", responses=documents.answer(documents.TextCompletion, "text/event-stream"))
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Go on with one or several texts."""
        prompts = [[Message("user", text)] for text in body.prompts()]
        n = body.n or 1
        choices = await start_choices(conversations, body.model, prompts, body.options(), n, raw=True)
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            return await stream_choices(request, choices, _Chunks(body.model, n, include_usage=include_usage))
        replies = await whole_choices(request, choices)
        texts = []
        for index, reply in enumerate(replies):
            scores = None if body.logprobs is None else CompletionLogprobs().of(reply.logprobs)
            texts.append(_choice(index, reply.text, finish_reason(reply), scores))
        return JSONResponse({**_head(body.model), "choices": texts, "usage": usage_of_all(replies, replies[::n])})

    return router


class _Chunks:
    """The stream of the choices of one request, which come as they are made."""

    def __init__(self, model: str, n: int, *, include_usage: bool) -> None:
        """`n` is how many of the choices answer each prompt."""
        self._head = _head(model)
        self._n = n
        self._include_usage = include_usage
        self._logprobs: list[CompletionLogprobs] = []

    def begin(self, choices: int) -> bytes:
        self._logprobs = [CompletionLogprobs() for _ in range(choices)]
        return b""

    def piece(self, index: int, text: str) -> bytes:
        tokens = logprobs_of(text)
        return self._chunk(_choice(index, text, None, self._logprobs[index].of(tokens) if tokens else None))

    def end(self, index: int, completion: Completion) -> bytes:
        return self._chunk(_choice(index, "", finish_reason(completion)))

    def close(self, completions: Sequence[Completion]) -> bytes:
        usage = {**self._head, "choices": [], "usage": usage_of_all(completions, completions[:: self._n])}
        return (sse(usage) if self._include_usage else b"") + DONE

    def fail(self, error: PromptdError) -> bytes:
        return sse(error_body(error))

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return sse({**self._head, "choices": [choice], **({"usage": None} if self._include_usage else {})})


def _head(model: str) -> dict[str, Any]:
    identifier = f"cmpl-{secrets.token_hex(12)}"
    return {"id": identifier, "object": "text_completion", "created": int(time.time()), "model": model}


def _choice(index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
