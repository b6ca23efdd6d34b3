"""uvicorn's connections, which hang up on clients that take too long, and refuse politely those there is no room for.

Checked against uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from promptd.errors import Busy
from promptd.server.errors import error_body
from promptd.server.keys import OWN_USER

KEEP_ALIVE_S = 30
"""How long a connection may idle between requests."""

HEADERS_S = 15.0
"""How long the head of a request may take, from the connection or the end of the reply before."""

REFUSED_S = 1.0
"""How long a connection there is no room for may take to ask, so that it hears why it is hung up on."""


class Connection(H11Protocol):
    """uvicorn's connection, which is closed when its client takes too long to say what it wants."""

    def __init__(self, *args: Any, control: str | None, **named: Any) -> None:
        super().__init__(*args, **named)
        self._control = control
        # uvicorn's own refusal is plain text, and lets silent connections stay.
        self._limit, self.limit_concurrency = self.limit_concurrency, None
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        here = transport.get_extra_info("socket")
        if self._control is not None and here.family == socket.AF_UNIX and here.getsockname() == self._control:
            self.app_state = {**self.app_state, OWN_USER: True}
        elif self._limit is not None and len(self.connections) > self._limit:
            self._refused = True
            self.app = _no_room
        self._await_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_headers()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if self._refused:
            self.send_503_response()
            return
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def send_503_response(self) -> None:
        """Refuse a WebSocket, of which uvicorn takes any number."""
        response = h11.Response(
            status_code=503,
            headers=[("Retry-After", "1"), ("Connection", "close"), ("Content-Length", "0")],
            reason=b"Service Unavailable",
        )
        for part in (response, h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # which uvicorn does not after a reset, and so keeps the connection

    def _await_headers(self) -> None:
        self._stop_waiting()  # the timer would keep all there was to the request before
        asked = self.cycle
        wait = REFUSED_S if self._refused else max(HEADERS_S, KEEP_ALIVE_S) if asked else HEADERS_S
        self._deadline = self.loop.call_later(wait, self._hang_up, asked)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _hang_up(self, asked: object) -> None:
        if self.cycle is asked and not self.transport.is_closing():
            self.transport.close()


async def _no_room(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on a connection beyond server.max-connections."""
    body = error_body(
        Busy("the daemon has as many connections as it takes; try again, or raise server.max-connections")
    )
    headers = {"Retry-After": "1", "Connection": "close"}
    await JSONResponse(body, 503, headers)(scope, receive, send)


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which would log a connection that was refused with a status as one nobody answered."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True
