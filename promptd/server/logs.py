"""The daemon's log: one line for each request, and an id on every line that is written on a request's behalf."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptd.server.metrics import route_of

REQUEST_ID = "X-Request-Id"

RECENT_LINES = 1000

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v1/engine"})
"""What is asked every few seconds; logged only when it fails."""

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_log = logging.getLogger("promptd.request")


def write_logs(form: Literal["console", "json"]) -> None:
    """Write the log of this process to standard error: `json` has one object in each line, from INFO up."""
    logging.getLogger("promptd").addHandler(recent)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each piece that a client has not waited for
    if form == "console":  # as the command line has set it up; the requests are kept, and not printed
        level = logging.getLogger().level
        for printing in logging.getLogger().handlers:
            printing.setLevel(max(printing.level, level))
        logging.getLogger("promptd").setLevel(min(level, logging.INFO))
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(min(root.level, logging.INFO))


class Recent(logging.Handler):
    """Keeps the last lines of the log for `promptd logs`."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(form)
        self._lines: deque[str] = deque(maxlen=RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def lines(self) -> list[str]:
        """Return them, the oldest first."""
        return list(self._lines)


class JsonLines(logging.Formatter):
    """One JSON object for each record; what a record's `extra` holds under `fields` stands beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": identifier} if (identifier := _request_id.get()) else {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


recent = Recent(JsonLines())
"""The log of this process; `write_logs` connects it."""


class LogRequests:
    """Gives each request an id, its client's own where that is decent, and logs how the request was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        identifier = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        token = _request_id.set(identifier)
        began = time.perf_counter()
        method = scope.get("method", "WEBSOCKET")
        status: int | None = None

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                MutableHeaders(scope=message)[REQUEST_ID] = identifier
            await send(message)

        try:
            await self._app(scope, receive, marked)
        finally:
            route = route_of(scope)
            if route not in _QUIET or status is None or status >= 400:
                fields = {
                    "method": method,
                    "route": route,
                    "status": status,
                    "seconds": round(time.perf_counter() - began, 4),
                    "client": scope.get("promptd.client", ""),
                }
                _log.info("%s %s %s", method, route, status or "client left", extra={"fields": fields})
            _request_id.reset(token)
