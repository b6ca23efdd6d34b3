"""Sends a turn to its client, whole or as server-sent events, and cancels it when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from promptd.chat import Completion
from promptd.errors import PromptdError
from promptd.server.turn import Turn

KEEP_ALIVE_S = 15.0
"""After this long without a piece a stream carries a comment, so that proxies do not take it for dead."""

BEGIN_S = 10.0
"""How long a stream's headers wait for the first piece: an error in that time is answered with a status of its own."""


class Encoding(Protocol):
    """How the events of a turn look on the wire; each method returns whole events."""

    media_type: str
    keep_alive: bytes
    """What is sent when nothing happens for a while."""

    def begin(self) -> bytes:
        """Return what comes before the first piece."""

    def piece(self, text: str) -> bytes:
        """Return one piece of the reply."""

    def end(self, completion: Completion) -> bytes:
        """Return the end of a whole reply."""

    def fail(self, error: PromptdError) -> bytes:
        """Return the end of a reply that `error` cut short."""


class ServerSentEvents:
    """What encodings as server-sent events have in common."""

    media_type = "text/event-stream"
    keep_alive = KEEPALIVE_COMMENT


def sse(data: Any, event: str | None = None, id: str | None = None) -> bytes:
    """Return one server-sent event with `data` as JSON."""
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False, separators=(",", ":")), event=event, id=id)


async def whole(request: Request, turn: Turn, heard: Callable[[], None] = lambda: None) -> Completion:
    """Wait for the whole reply, and call `heard` at each piece of it; raises the PromptdError that ended it."""
    async with cancelled_when_left(request, turn):
        while not isinstance(event := await turn.next(), Completion):
            heard()
    return event


async def stream(request: Request, turn: Turn, encoding: Encoding) -> StreamingResponse:
    """Return a response that sends the reply as it is made; raises the PromptdError of a turn that fails at once."""
    async with cancelled_when_left(request, turn):
        first = await turn.next(BEGIN_S)
    return CancelledStream(turn, _events(turn, first, encoding), encoding.media_type)


class Cancellable(Protocol):
    """What makes a reply, or several."""

    def cancel(self) -> None:
        """Stop making what is not whole. Idempotent."""


class CancelledStream(StreamingResponse):
    """Sends the events of a turn, or of several, which is cancelled once nobody takes them any more."""

    def __init__(self, turn: Cancellable, events: AsyncIterator[bytes], media_type: str) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type=media_type)
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._turn.cancel()


async def _events(turn: Turn, event: str | Completion | None, encoding: Encoding) -> AsyncIterator[bytes]:
    yield encoding.begin()
    try:
        while not isinstance(event, Completion):
            yield encoding.keep_alive if event is None else encoding.piece(event)
            event = await turn.next(KEEP_ALIVE_S)
        yield encoding.end(event)
    except PromptdError as error:
        yield encoding.fail(error)


@asynccontextmanager
async def cancelled_when_left(request: Request, turn: Cancellable) -> AsyncIterator[None]:
    """Cancel `turn` when the client leaves, or the request fails, before the block ends."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        turn.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except BaseException:
        turn.cancel()
        raise
    finally:
        watcher.cancel()
