"""What every request passes before it reaches a route: the Host header's allow-list, and what bodies may be."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptd.errors import SecurityDenied, TooLarge
from promptd.server.errors import OLLAMA_PREFIX, error_body

MAX_BODY_BYTES = 16 * 1024**2
"""A body larger than this is refused; the longest context of today's models is a few MiB of text."""

MAX_HEADER_BYTES = 32 * 1024

MAX_JSON_DEPTH = 64
"""Lists and objects within one another; a tool's JSON schema may take a dozen."""

BODY_S = 30.0
"""How long the next part of a body may take."""

_BROWSERS = frozenset({"origin", "referer", "sec-fetch-site"})
"""Headers of which a browser sends one at least with a form."""

_JSON_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


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
        """`names` are allowed beside addresses and localhost; `*.NAME` is everything below NAME."""
        lowered = [name.lower().rstrip(".") for name in names]
        self._names = {"localhost", socket.gethostname().lower(), *lowered}
        self._endings = (".localhost", *(name[1:] for name in lowered if name.startswith("*.")))

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
            return name in self._names or name.endswith(self._endings)
        return True


class CurlBodies:
    """Takes bodies on Ollama's routes for JSON that curl calls a form's, as Ollama's documentation sends them.

    A form of a foreign web page looks like that too, but browsers say where it comes from.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(OLLAMA_PREFIX):
            headers = Headers(scope=scope)
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind in ("", "application/x-www-form-urlencoded") and not any(name in headers for name in _BROWSERS):
                others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
                scope["headers"] = [*others, (b"content-type", b"application/json")]
        await self._app(scope, receive, send)


class Limits:
    """Refuses headers that are too large (431), and bodies that are too large (413), too deep (400) or slow (408)."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES, uploads: Mapping[str, int] | None = None) -> None:
        """`uploads` are paths whose bodies are files and no JSON, passed on as they come, and their limits."""
        self._app = app
        self._limit = limit
        self._uploads = uploads or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            error = TooLarge(f"the headers are larger than {MAX_HEADER_BYTES} bytes")
            await JSONResponse(error_body(error), 431)(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        parts: list[bytes] = []
        received = 0
        whole = False
        is_upload = scope["path"] in self._uploads
        limit = self._uploads.get(scope["path"], self._limit)

        async def limited() -> Message:
            nonlocal received, whole
            if whole:  # what comes after the body is that the client has left, whenever that is
                return await receive()
            if announced.isdecimal() and int(announced) > limit:
                raise _too_large(limit)
            try:
                message = await asyncio.wait_for(receive(), BODY_S)
            except TimeoutError:
                raise HTTPException(408, f"the body did not go on for {BODY_S:g} s") from None
            part = message.get("body", b"")
            received += len(part)
            if received > limit:
                raise _too_large(limit)
            if not is_upload:
                parts.append(part)
            if not message.get("more_body", False):
                whole = True
                if is_deeper(b"".join(parts), MAX_JSON_DEPTH):
                    raise HTTPException(400, f"the body has more than {MAX_JSON_DEPTH} levels of lists and objects")
                parts.clear()
            return message

        await self._app(scope, limited, send)


def _too_large(limit: int) -> HTTPException:
    # FastAPI turns any other exception from reading a body into a 400.
    return HTTPException(413, f"the body is larger than {limit} bytes")


def is_deeper(body: bytes, levels: int) -> bool:
    """Return whether the JSON text `body` nests lists and objects deeper than `levels`."""
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    depth = 0
    for match in _JSON_STRING_OR_BRACKET.finditer(body):
        if match[0] in b"[{":
            depth += 1
            if depth > levels:
                return True
        elif match[0] in b"]}":
            depth -= 1
    return False


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header
