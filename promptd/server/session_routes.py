"""The routes of sessions: open one with a guest or graph, send it messages, close it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from promptd.chat import Completion
from promptd.errors import PromptdError
from promptd.server.chat import usage_body
from promptd.server.conversations import GUEST_PREFIX
from promptd.server.errors import error_body
from promptd.server.replies import ServerSentEvents, sse, stream, whole
from promptd.server.schemas import OpenSession, SessionMessage
from promptd.server.sessions import Session, Sessions


def session_router(sessions: Sessions) -> APIRouter:
    """Return the routes under `/v1/sessions`."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.post("", status_code=201)
    async def open_session(body: OpenSession, request: Request) -> dict[str, Any]:
        """Start an instance of a guest, or open a conversation with a graph."""
        session = await sessions.open(body.graph if body.graph is not None else f"{GUEST_PREFIX}{body.guest}")
        if await request.is_disconnected():
            sessions.close(session.id)
        return _session(session)

    @router.get("")
    async def list_sessions() -> dict[str, Any]:
        """List the open sessions."""
        return {"object": "list", "data": [_session(session) for session in sessions.all()]}

    @router.get("/{session_id}")
    async def retrieve_session(session_id: str) -> dict[str, Any]:
        """Describe one session."""
        return _session(sessions.get(session_id))

    @router.post("/{session_id}/messages")
    async def send_message(session_id: str, body: SessionMessage, request: Request) -> Response:
        """Send one user message and get the reply, as a stream unless `stream` is false."""
        turn = await sessions.get(session_id).send(body.content)
        if body.stream:
            return await stream(request, turn, _Events())
        return JSONResponse(_message(await whole(request, turn)))

    @router.delete("/{session_id}", status_code=204)
    async def close_session(session_id: str) -> None:
        """End a session; a reply that is being made is cancelled."""
        sessions.close(session_id)

    return router


class _Events(ServerSentEvents):
    """The stream of one turn: `piece` events, then one `message` or `error` event."""

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        return sse({"content": text}, "piece")

    def end(self, completion: Completion) -> bytes:
        return sse(_message(completion), "message")

    def fail(self, error: PromptdError) -> bytes:
        return sse(error_body(error), "error")


def _message(completion: Completion) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": completion.text,
        "stop_reason": completion.stop_reason.value,
        "usage": usage_body(completion.usage),
    }


def _session(session: Session) -> dict[str, Any]:
    is_guest = session.model.startswith(GUEST_PREFIX)
    return {
        "id": session.id,
        "object": "session",
        "guest": session.model.removeprefix(GUEST_PREFIX) if is_guest else None,
        "graph": None if is_guest else session.model,
        "created": session.created,
        "turns": session.turns,
        "busy": session.busy,
    }
