"""OpenAI's Responses: `POST /v1/responses`, whole or as a stream of typed events. Nothing is stored.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from promptd.chat import Completion, StopReason
from promptd.errors import PromptdError
from promptd.server import documents
from promptd.server.conversations import Conversations
from promptd.server.errors import error_body
from promptd.server.replies import ServerSentEvents, sse, stream, whole
from promptd.server.schemas import ResponsesRequest

_CUT = (StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL)


def responses_router(conversations: Conversations) -> APIRouter:
    """Return the route of responses."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/responses", responses=documents.answer(documents.Response, "text/event-stream"))
    async def create_response(body: ResponsesRequest, request: Request) -> Response:
        """Answer the input of one request; nothing of it is kept."""
        turn = await conversations.answer(body.model, body.messages(), body.options())
        events = _Events(body)
        if body.stream:
            return await stream(request, turn, events)
        return JSONResponse(events.ended(await whole(request, turn)))

    return router


class _Events(ServerSentEvents):
    """The stream of one response, which has one message with one part."""

    def __init__(self, body: ResponsesRequest) -> None:
        self._body = body
        self._id = f"resp_{secrets.token_hex(12)}"
        self._item = f"msg_{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._number = 0
        self._where = {"item_id": self._item, "output_index": 0, "content_index": 0}

    def begin(self) -> bytes:
        response = self._response("in_progress")
        return b"".join([
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
            self._event("response.output_item.added", output_index=0, item=self._message("in_progress")),
            self._event("response.content_part.added", **self._where, part=_part("")),
        ])  # fmt: skip

    def piece(self, text: str) -> bytes:
        return self._event("response.output_text.delta", **self._where, delta=text, logprobs=[])

    def end(self, completion: Completion) -> bytes:
        text = completion.text
        response = self.ended(completion)
        status = response["status"]
        return b"".join([
            self._event("response.output_text.done", **self._where, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._where, part=_part(text)),
            self._event("response.output_item.done", output_index=0, item=self._message(status, text)),
            self._event(f"response.{status}", response=response),
        ])  # fmt: skip

    def fail(self, error: PromptdError) -> bytes:
        body = error_body(error)["error"]
        told = {"code": body["code"], "message": body["message"]}
        return self._event("response.failed", response=self._response("failed", error=told))

    def ended(self, completion: Completion) -> dict[str, Any]:
        """Return the whole response."""
        cut = completion.stop_reason in _CUT
        status = "incomplete" if cut else "completed"
        usage = completion.usage
        return self._response(
            status,
            output=[self._message(status, completion.text)],
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage={
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.generated,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.generated,
            },
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number - 1, **fields}, kind)

    def _message(self, status: str, text: str | None = None) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": body.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
            **fields,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
