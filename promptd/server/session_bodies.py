"""How a session and its events look to clients, over HTTP and WebSockets alike."""

from __future__ import annotations

from typing import Any

from promptd.chat import Completion
from promptd.server.chat import usage_body
from promptd.server.conversation import GUEST_PREFIX
from promptd.server.errors import error_body
from promptd.server.sessions import Session
from promptd.server.turn import Event


def session_body(session: Session) -> dict[str, Any]:
    """Return what is told of a session."""
    is_guest = session.model.startswith(GUEST_PREFIX)
    return {
        "id": session.id,
        "object": "session",
        "guest": session.model.removeprefix(GUEST_PREFIX) if is_guest else None,
        "graph": None if is_guest else session.model,
        "owner": session.owner or None,
        "created": session.created,
        "turns": session.turns,
        "busy": session.busy,
        "last_event": session.events.last,
    }


def event_body(event: Event) -> tuple[str, dict[str, Any]]:
    """Return an event's type, `piece`, `message` or `error`, and its data."""
    if isinstance(event, str):
        return "piece", {"content": event}
    if isinstance(event, Completion):
        return "message", message_body(event)
    return "error", error_body(event)


def message_body(completion: Completion) -> dict[str, Any]:
    """Return a whole reply."""
    return {
        "role": "assistant",
        "content": completion.text,
        "stop_reason": completion.stop_reason.value,
        "usage": usage_body(completion.usage),
    }
