"""What every request passes before it reaches a route: the Host header's allow-list and the limit on bodies."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptd.errors import SecurityDenied
from promptd.server.errors import error_body

MAX_BODY_BYTES = 16 * 1024**2
"""A body larger than this is refused; the longest context of today's models is a few MiB of text."""


def is_loopback(host: str) -> bool:
    """Return whether the address or name `host` reaches only this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


class HostAllowList:
    """Refuses requests whose Host header is a name a web page could have rebound to this machine.

    A page under a foreign name that resolves to this machine shares that name's origin with the daemon (DNS rebinding,
    CVE-2024-28224 in Ollama). Such a request always carries the foreign *name*, so IP addresses are let through.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._allows(Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, send)
            return
        error = SecurityDenied("this daemon does not answer to that Host header; use its address, or localhost")
        await JSONResponse(error_body(error), 403)(scope, receive, send)

    def _allows(self, header: str) -> bool:
        name = _without_port(header)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            name = name.lower().rstrip(".")
            return name in self._names or name.endswith(".localhost")
        return True


class BodyLimit:
    """Refuses request bodies of more than `limit` bytes with 413, whether or not their length was announced."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        received = 0

        async def limited() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced) > self._limit:
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> HTTPException:
        # FastAPI turns any other exception from reading a body into a 400.
        return HTTPException(413, f"the body is larger than {self._limit} bytes")


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header
