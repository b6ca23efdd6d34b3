"""A session over a WebSocket: messages in, events out, and the wish to cancel; and who may open one from a web page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from promptd.errors import InvalidArgument, PromptdError, SecurityDenied
from promptd.server.doors import MAX_JSON_DEPTH, is_deeper
from promptd.server.errors import Forgotten, as_promptd_error, error_body, error_response
from promptd.server.events import Reader
from promptd.server.keys import SOCKET_PROTOCOL, current_client
from promptd.server.schemas import SocketMessage
from promptd.server.session_bodies import event_body
from promptd.server.sessions import Session, Sessions

CLOSED_BINARY = 1003
CLOSED_ENDED = 4404
CLOSED_BEHIND = 4410
"""Codes a connection is closed with: it sent bytes; the session has ended; what it would have to be sent next is no
longer kept."""


def socket_router(sessions: Sessions) -> APIRouter:
    """Return the route of a session's WebSocket."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.websocket("/{session_id}/ws")
    async def talk(websocket: WebSocket, session_id: str) -> None:
        try:
            session = sessions.get(session_id)
            after = _after(websocket, session)
        except PromptdError as error:
            await websocket.send_denial_response(error_response(error, websocket.url.path))
            return
        speaks = SOCKET_PROTOCOL in websocket.scope["subprotocols"]
        await websocket.accept(SOCKET_PROTOCOL if speaks else None)
        with session.listening(after) as reader:
            tasks = [
                asyncio.create_task(_send_events(websocket, reader)),
                asyncio.create_task(_take_messages(websocket, session)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    return router


def _after(websocket: WebSocket, session: Session) -> int:
    """Return the event a client wants to go on after; without one, it is sent what happens from now on."""
    text = websocket.query_params.get("after")
    if text is None:
        return session.events.last
    if not text.isdecimal():
        raise InvalidArgument("after: it is the number of an event")
    session.events.check(int(text))
    return int(text)


async def _send_events(websocket: WebSocket, reader: Reader) -> None:
    try:
        while (event := await reader.next()) is not None:
            kind, data = event_body(event.event)
            await _send(websocket, {"type": kind, "id": event.number, **data})
    except Forgotten as error:
        await _send(websocket, {"type": "error", **error_body(error)})
        await websocket.close(CLOSED_BEHIND, "too much waits for this client")
    else:
        await websocket.close(CLOSED_ENDED, "the session has ended")


async def _take_messages(websocket: WebSocket, session: Session) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is None:
            await websocket.close(CLOSED_BINARY, "send JSON as text")
            return
        try:
            await _obey(session, text)
        except Exception as error:
            await _send(websocket, {"type": "error", **error_body(as_promptd_error(error))})


async def _obey(session: Session, text: str) -> None:
    message = _parsed(text)
    if message.type == "cancel":
        session.cancel()
        return
    current_client().admit()
    await session.send(message.content)


def _parsed(text: str) -> SocketMessage:
    if is_deeper(text.encode(), MAX_JSON_DEPTH):
        raise InvalidArgument(f"the message has more than {MAX_JSON_DEPTH} levels of lists and objects")
    try:
        return SocketMessage.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"{place or 'the message'}: {first['msg'].removeprefix('Value error, ')}") from None


async def _send(websocket: WebSocket, body: dict[str, Any]) -> None:
    try:
        await websocket.send_text(json.dumps(body, ensure_ascii=False, separators=(",", ":")))
    except (WebSocketDisconnect, RuntimeError):
        raise asyncio.CancelledError from None  # the client has left; the other task sees that too


class SocketOrigins:
    """Refuses WebSockets that a web page of a foreign origin opens: browsers do not hold them to CORS."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            own = {f"{scheme}://{headers.get('host', '')}" for scheme in ("http", "https")}
            if origin is not None and origin not in self._origins | own and "*" not in self._origins:
                error = SecurityDenied(
                    "this daemon does not take WebSockets from that origin; server.origins lists some"
                )
                await JSONResponse(error_body(error), 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
