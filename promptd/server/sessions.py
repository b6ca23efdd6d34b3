"""The sessions of the daemon: conversations that clients come back to, until they close them or stay away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from promptd.chat import ChatOptions, Completion, Message, StopReason
from promptd.errors import Busy, NotFound, PromptdError
from promptd.server.conversations import Conversation, Conversations
from promptd.server.errors import TurnRunning
from promptd.server.keys import current_client
from promptd.server.turn import Turn


class Session:
    """One conversation with a graph or guest, one turn at a time; made by `Sessions.open`."""

    def __init__(self, model: str, conversation: Conversation, idle_s: float, close: Callable[[str], None]) -> None:
        self.id = secrets.token_urlsafe(16)
        self.model = model
        self.owner = current_client().name
        """The key it was opened with; whoever holds another does not see it."""
        self.created = int(time.time())
        self.turns = 0
        """Turns that were answered."""
        self.busy = False
        self._conversation = conversation
        self._idle_s = idle_s
        self._close = close
        self._idle = self._wait()

    async def send(self, content: str) -> Turn:
        """Start the reply to one user message; raises TurnRunning while another is made, or another PromptdError."""
        if self.busy:
            raise TurnRunning
        self.busy = True
        self._idle.cancel()
        try:
            return await self._conversation.start([Message("user", content)], ChatOptions(), ended=self._on_end)
        except BaseException:
            self._rest()
            raise

    def close(self) -> None:
        """End the session; a turn that is running is cancelled."""
        self._idle.cancel()
        self._conversation.close()

    def _on_end(self, outcome: Completion | PromptdError) -> None:
        if isinstance(outcome, Completion) and outcome.stop_reason is not StopReason.CANCELLED:
            self.turns += 1
        self._rest()

    def _rest(self) -> None:
        self.busy = False
        if self._conversation.ended:
            self._close(self.id)
        else:
            self._idle = self._wait()

    def _wait(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._idle_s, lambda: self._close(self.id))


class Sessions:
    """The open sessions by their ids, which nobody can guess."""

    def __init__(self, conversations: Conversations, *, limit: int, idle_s: float) -> None:
        self._conversations = conversations
        self._limit = limit
        self._idle_s = idle_s
        self._open: dict[str, Session] = {}
        self._opening = 0

    async def open(self, model: str) -> Session:
        """Open a session with a graph or `guest/NAME`; raises Busy at the limit, and as `Conversations.open`."""
        if len(self._open) + self._opening >= self._limit:
            raise Busy(f"all {self._limit} sessions are taken; close one, or raise server.max-sessions")
        self._opening += 1
        try:
            conversation = await self._conversations.open(model)
        finally:
            self._opening -= 1
        session = Session(model, conversation, self._idle_s, self._forget)
        self._open[session.id] = session
        return session

    def get(self, session_id: str) -> Session:
        """Return the open session of that id; raises NotFound."""
        session = self._open.get(session_id)
        if session is None or session.owner != current_client().name:
            raise NotFound("there is no such session; it was closed, its guest has ended, or nobody used it")
        return session

    def close(self, session_id: str) -> None:
        """Close a session; raises NotFound."""
        self.get(session_id)
        self._forget(session_id)

    def all(self) -> list[Session]:
        """Return the client's open sessions, the oldest first."""
        return [session for session in self._open.values() if session.owner == current_client().name]

    @property
    def count(self) -> int:
        """How many sessions are open, of all clients."""
        return len(self._open)

    def close_all(self) -> None:
        """Close every session."""
        for session_id in list(self._open):
            self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        if session := self._open.pop(session_id, None):
            session.close()
