"""The routes of sessions: open one with a guest or graph, talk to it, come back to a reply, fork, rewind, close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from promptd.chat import Completion
from promptd.errors import InvalidArgument, NotFound, PromptdError, RuntimeFailure
from promptd.server import documents
from promptd.server.conversation import GUEST_PREFIX
from promptd.server.errors import InvalidField
from promptd.server.events import Numbered, Reader
from promptd.server.replies import BEGIN_S, KEEP_ALIVE_S, ServerSentEvents, sse
from promptd.server.schemas import ForkSession, OpenSession, RewindSession, SessionMessage
from promptd.server.session_bodies import event_body, message_body, session_body
from promptd.server.sessions import Session, Sessions

EVENTS = ServerSentEvents.media_type

MAX_PAGE = 1000
"""Most sessions of one page of the list."""


def session_router(sessions: Sessions) -> APIRouter:
    """Return the routes under `/v1/sessions`."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

    @router.post("", status_code=201, responses=documents.answer(documents.Session, status=201))
    async def open_session(body: OpenSession, request: Request) -> dict[str, Any]:
        """Start an instance of a guest, or open a conversation with a graph."""
        session = await sessions.open(body.graph if body.graph is not None else f"{GUEST_PREFIX}{body.guest}")
        return await _opened(session, request)

    @router.get("", responses=documents.answer(documents.SessionList))
    async def list_sessions(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100, after: Annotated[str | None, Query()] = None
    ) -> dict[str, Any]:
        """List the open sessions of the client's key, or all of them for an admin: those opened after the session
        `after`, the oldest first.
        """
        open_ = sessions.all()
        if after is not None:
            place = next((place for place, session in enumerate(open_, 1) if session.id == after), None)
            if place is None:
                raise InvalidField("after: there is no such session; begin again without it", "after")
            open_ = open_[place:]
        return {
            "object": "list",
            "data": [session_body(session) for session in open_[:limit]],
            "has_more": len(open_) > limit,
        }

    @router.get("/{session_id}", responses=documents.answer(documents.Session))
    async def retrieve_session(session_id: str) -> dict[str, Any]:
        """Describe one session."""
        return session_body(sessions.seen(session_id))

    @router.post("/{session_id}/messages", responses=documents.answer(documents.SessionReply, EVENTS))
    async def send_message(session_id: str, body: SessionMessage, request: Request) -> Response:
        """Send one user message and get the reply, as a stream unless `stream` is false."""
        session = sessions.get(session_id)
        with ExitStack() as stack:
            reader = stack.enter_context(session.listening())
            await session.send(body.content)
            if not body.stream:
                return JSONResponse(message_body(await _whole(request, session, reader)))
            first = await session.events.next(reader.after, BEGIN_S)
            if first is not None and isinstance(first.event, PromptdError):
                raise first.event
            return _EventStream(session, reader, stack.pop_all())

    @router.get(
        "/{session_id}/events",
        response_class=StreamingResponse,
        responses={
            200: {"description": "A stream of events.", "content": {EVENTS: {"schema": {"type": "string"}}}},
            204: {"description": "There is nothing more."},
        },
    )
    async def read_events(
        session_id: str,
        after: Annotated[int | None, Query(ge=0)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Go on with a reply where a stream broke off: with the event after `after`, or Last-Event-ID, to the end.

        Without either, from the beginning of the last reply. 204 says that there is nothing more.
        """
        session = sessions.events_of(session_id)
        start = _number(last_event_id) if after is None and last_event_id else after
        start = session.began if start is None else start
        session.events.check(start)
        if start == session.events.last and not session.busy:
            return Response(status_code=204)
        with ExitStack() as stack:
            reader = stack.enter_context(session.listening(start))
            return _EventStream(session, reader, stack.pop_all())

    @router.post("/{session_id}/cancel", responses=documents.answer(documents.Cancelled))
    async def cancel_reply(session_id: str) -> dict[str, Any]:
        """Stop the reply that is being made; a command ends with it, and its session too."""
        return {"cancelled": sessions.get(session_id).cancel()}

    @router.post("/{session_id}/fork", status_code=201, responses=documents.answer(documents.Session, status=201))
    async def fork_session(session_id: str, request: Request, body: ForkSession | None = None) -> dict[str, Any]:
        """Open a second session with the same past, or without its last `rewind` turns."""
        return await _opened(await sessions.fork(session_id, body.rewind if body else 0), request)

    @router.post("/{session_id}/rewind", responses=documents.answer(documents.Session))
    async def rewind_session(session_id: str, body: RewindSession | None = None) -> dict[str, Any]:
        """Take back the last `turns` turns."""
        session = sessions.get(session_id)
        await session.rewind(body.turns if body else 1)
        return session_body(session)

    @router.delete("/{session_id}", status_code=204)
    async def close_session(session_id: str) -> None:
        """End a session; a reply that is being made is cancelled."""
        sessions.close(session_id)

    async def _opened(session: Session, request: Request) -> dict[str, Any]:
        if await request.is_disconnected():
            sessions.close(session.id)
        return session_body(session)

    return router


class _EventStream(StreamingResponse):
    """The events of a session, up to the end of the reply that is being made."""

    def __init__(self, session: Session, reader: Reader, listening: ExitStack) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(session, reader), headers=headers, media_type=EVENTS)
        self._listening = listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._listening:
            await super().__call__(scope, receive, send)


async def _events(session: Session, reader: Reader) -> AsyncIterator[bytes]:
    try:
        while True:
            event = await reader.next(KEEP_ALIVE_S)
            if event is not None:
                yield _encoded(event)
                if event.is_last:
                    return
            elif session.events.closed:
                return
            else:
                yield ServerSentEvents.keep_alive
    except NotFound as error:  # Forgotten: this client reads more slowly than the reply is made
        kind, data = event_body(error)
        yield sse(data, kind)


def _encoded(event: Numbered) -> bytes:
    kind, data = event_body(event.event)
    return sse(data, kind, str(event.number))


async def _whole(request: Request, session: Session, reader: Reader) -> Completion:
    """Wait for the whole reply; raises the PromptdError that ended it. A client that leaves meanwhile cancels it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        session.cancel()

    watcher = asyncio.create_task(watch())
    try:
        while (event := await reader.next()) is not None and not event.is_last:
            pass
    except BaseException:
        session.cancel()
        raise
    finally:
        watcher.cancel()
    outcome = event.event if event else RuntimeFailure("the session was closed before its reply was whole")
    if isinstance(outcome, Completion):
        return outcome
    assert isinstance(outcome, PromptdError)
    raise outcome


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument("Last-Event-ID is not the number of an event") from None
