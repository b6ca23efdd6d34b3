"""uvicorn's connections, which hang up on clients that take too long, and refuse politely those there is no room for.

Checked against uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11
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

_SENTENCE = "the daemon has as many connections as it takes; try again, or raise server.max-connections"
_BODY = json.dumps(error_body(Busy(_SENTENCE))).encode()
_NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)
"""What is said on a connection beyond server.max-connections, whatever it asks: reading that is more work than to
refuse it.
"""


class Connection(H11Protocol):
    """uvicorn's connection, which is closed when its client takes too long to say what it wants."""

    def __init__(self, *args: Any, control: str | None, **named: Any) -> None:
        super().__init__(*args, **named)
        self._control = control
        # uvicorn's own refusal is plain text, and lets silent connections stay.
        self._limit, self.limit_concurrency = self.limit_concurrency, None
        self._refused = False
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        here = transport.get_extra_info("socket")
        if self._control is not None and here.family == socket.AF_UNIX and here.getsockname() == self._control:
            self.app_state = {**self.app_state, OWN_USER: True}
        elif self._limit is not None and len(self.connections) > self._limit:
            self._refused = True
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._refuse()
        else:
            super().data_received(data)

    def _refuse(self) -> None:
        """Answer the first bytes on a connection there is no room for; what else comes until it is closed is let go.

        To close it at once would reset it, and a client that is still sending would not read the answer.
        """
        if not self._answered:
            self._answered = True
            self.transport.write(_NO_ROOM)
            self.transport.write_eof()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_headers()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

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


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which would log a connection that was refused with a status as one nobody answered."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True
