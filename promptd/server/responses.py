"""OpenAI's Responses: `POST /v1/responses`, whole or as a stream of typed events. Nothing is stored.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from promptd.server import documents
from promptd.server.conversations import Conversations
from promptd.server.replies import stream, whole
from promptd.server.response_events import ResponseEvents, whole_response
from promptd.server.response_request import ResponsesRequest


def responses_router(conversations: Conversations) -> APIRouter:
    """Return the route of responses."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/responses", responses=documents.answer(documents.Response, "text/event-stream"))
    async def create_response(body: ResponsesRequest, request: Request) -> Response:
        """Answer the input of one request; nothing of it is kept."""
        offered = body.offer()
        tools = offered.tools
        turn = await conversations.answer(body.model, body.messages(), body.options(offered), tools=tools)
        if body.stream:
            return await stream(request, turn, ResponseEvents(body, tools))
        return JSONResponse(whole_response(body, tools, await whole(request, turn)))

    return router
