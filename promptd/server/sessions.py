"""The sessions of the daemon: conversations that clients come back to, until they close them or stay away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptd.chat import ChatOptions, Completion, Message, StopReason
from promptd.config import ServerSettings
from promptd.errors import Busy, NotFound, PromptdError
from promptd.server.conversation import Conversation
from promptd.server.conversations import Conversations
from promptd.server.errors import TooManySessions, TurnRunning
from promptd.server.events import EventLog, Reader
from promptd.server.keys import Client, current_client
from promptd.server.turn import STOP_S, Turn


class Session:
    """One conversation with a graph or guest, one turn at a time; made by `Sessions.open`.

    What happens in it goes into `events`, from which any number of clients read. While a reply is made and no client
    listens, the session waits for one to come back, and cancels the reply when none does.
    """

    def __init__(
        self, model: str, conversation: Conversation, settings: ServerSettings, close: Callable[[str], None]
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.model = model
        self.owner = current_client().name
        """The key it was opened with; whoever holds another does not see it."""
        self.created = int(time.time())
        self.turns = 0
        """Turns that were answered, and not taken back."""
        self.busy = False
        self.events = EventLog(settings.session_buffer)
        self.began = 0
        """The number of the last event before the turn that was begun last."""
        self._conversation = conversation
        self._settings = settings
        self._close = close
        self._closed = False
        self._listeners = 0
        self._turn: Turn | None = None
        self._recording: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(settings.session_idle, close, self.id)
        self._life = loop.call_later(settings.session_life, close, self.id) if settings.session_life else None

    async def send(self, content: str) -> None:
        """Start the reply to one user message.

        Raises TurnRunning while another is made, or another PromptdError.
        """
        ended = asyncio.Event()

        def on_end(outcome: Completion | PromptdError) -> None:
            if isinstance(outcome, Completion) and outcome.stop_reason is not StopReason.CANCELLED:
                self.turns += 1
            ended.set()

        self._occupy()
        try:
            turn = await self._conversation.start([Message("user", content)], ChatOptions(), ended=on_end)
        except BaseException:
            self._rest()
            raise
        self._turn = turn
        self.began = self.events.last
        self._recording = asyncio.create_task(self._record(turn, ended))

    def cancel(self) -> bool:
        """Stop the reply that is being made; False when there is none."""
        if self._turn is None:
            return False
        self._turn.cancel()
        return True

    @contextmanager
    def listening(self, after: int | None = None) -> Iterator[Reader]:
        """Return a reader of what happens from now on, or after event `after`.

        A reply goes on in the block, and after it for the time a client that broke off has to come back.
        """
        self._listeners += 1
        self._stop_grace()
        try:
            with self.events.reader(self.events.last if after is None else after) as reader:
                yield reader
        finally:
            self._listeners -= 1
            if not self._listeners and self.busy:
                self._grace = asyncio.get_running_loop().call_later(self._settings.session_grace, self.cancel)

    async def fork(self) -> Conversation:
        """Return a second conversation with the same past; raises TurnRunning, or UnsupportedOperation of a command."""
        self._occupy()
        try:
            return await self._conversation.fork()
        finally:
            self._rest()

    async def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns; raises InvalidArgument when there are fewer, and as `fork`."""
        self._occupy()
        try:
            await self._conversation.rewind(turns)
            self.turns -= turns
        finally:
            self._rest()

    def close(self) -> None:
        """End the session; a turn that is running is cancelled."""
        self._closed = True
        self._idle.cancel()
        if self._life is not None:
            self._life.cancel()
        self._stop_grace()
        self._conversation.close()
        if self._recording is None or self._recording.done():
            self.events.close()
        else:
            self._recording.add_done_callback(lambda _: self.events.close())
            asyncio.get_running_loop().call_later(STOP_S, self.events.close)

    async def _record(self, turn: Turn, ended: asyncio.Event) -> None:
        """Keep what happens in the turn; the session is free when all of it is kept, and the conversation too."""
        while not await self._record_next(turn):
            pass
        await ended.wait()
        self._rest()

    async def _record_next(self, turn: Turn) -> bool:
        try:
            event: str | Completion | None = await turn.next()
        except PromptdError as error:
            self.events.add(error)
            return True
        if event is not None:
            self.events.add(event)
        return isinstance(event, Completion)

    def _occupy(self) -> None:
        if self.busy:
            raise TurnRunning
        self.busy = True
        self._idle.cancel()

    def _rest(self) -> None:
        self.busy = False
        self._turn = None
        self._stop_grace()
        if self._closed:
            return
        if self._conversation.ended:
            self._close(self.id)
        else:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._settings.session_idle, self._close, self.id)

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None


class Sessions:
    """The open sessions by their ids, which nobody can guess."""

    def __init__(self, conversations: Conversations, settings: ServerSettings) -> None:
        self._conversations = conversations
        self._settings = settings
        self._open: dict[str, Session] = {}
        self._ended: dict[str, Session] = {}
        self._taken: Counter[str] = Counter()

    def update(self, settings: ServerSettings) -> None:
        """Take new settings, for sessions that are opened from now on."""
        self._settings = settings

    async def open(self, model: str) -> Session:
        """Open a session with a graph or `guest/NAME`; raises Busy and TooManySessions at the limits, and as
        `Conversations.open`.
        """
        with self._place():
            return self._keep(model, await self._conversations.open(model))

    async def fork(self, session_id: str, rewind: int) -> Session:
        """Open a second session with the past of another, without its last `rewind` turns; raises as `open`, NotFound,
        and as `Session.fork` and `Session.rewind`.
        """
        original = self.get(session_id)
        with self._place():
            turns = original.turns
            conversation = await original.fork()
            try:
                await conversation.rewind(rewind)
                session = self._keep(original.model, conversation)
            except BaseException:
                conversation.close()
                raise
            session.turns = turns - rewind
            return session

    def get(self, session_id: str) -> Session:
        """Return the client's open session of that id; raises NotFound."""
        return self._of_client(self._open.get(session_id))

    def events_of(self, session_id: str) -> Session:
        """Return the client's session of that id, also one that has just ended, to read its events; raises NotFound."""
        return self._of_client(self._open.get(session_id) or self._ended.get(session_id))

    def seen(self, session_id: str) -> Session:
        """Return the open session of that id if the client may know of it, as an admin may of all; raises NotFound."""
        session = self._open.get(session_id)
        return session if session is not None and _sees(current_client(), session) else self._of_client(None)

    def all(self) -> list[Session]:
        """Return the open sessions the client may know of, the oldest first."""
        client = current_client()
        return [session for session in self._open.values() if _sees(client, session)]

    def close(self, session_id: str) -> None:
        """Close a session the client may know of; raises NotFound."""
        self._forget(self.seen(session_id).id)

    @property
    def count(self) -> int:
        """How many sessions are open, of all clients."""
        return len(self._open)

    def close_all(self) -> None:
        """Close every session."""
        for session_id in list(self._open):
            self._forget(session_id)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Take a place for a session, and give it back if none is made in the block."""
        if self._conversations.status() == "shutting-down":
            raise Busy("promptd is shutting down")
        client, limit = current_client(), self._settings.max_sessions
        if self._taken.total() >= limit:
            raise Busy(f"all {limit} sessions are taken; close one, or raise server.max-sessions")
        if client.max_sessions is not None and self._taken[client.name] >= client.max_sessions:
            raise TooManySessions(f"this key may have {client.max_sessions} sessions open, and has; close one")
        self._taken[client.name] += 1
        try:
            yield
        except BaseException:
            self._taken[client.name] -= 1
            raise

    def _keep(self, model: str, conversation: Conversation) -> Session:
        session = Session(model, conversation, self._settings, self._end)
        self._open[session.id] = session
        return session

    def _end(self, session_id: str) -> None:
        """Close a session whose client may not know yet: how its last reply ended can be read for a while."""
        if session := self._open.get(session_id):
            self._forget(session_id)
            self._ended[session_id] = session
            asyncio.get_running_loop().call_later(self._settings.session_grace, self._ended.pop, session_id, None)

    def _forget(self, session_id: str) -> None:
        if session := self._open.pop(session_id, None):
            self._taken[session.owner] -= 1
            session.close()

    def _of_client(self, session: Session | None) -> Session:
        if session is None or session.owner != current_client().name:
            raise NotFound("there is no such session; it was closed, its guest has ended, or nobody used it")
        return session


def _sees(client: Client, session: Session) -> bool:
    return session.owner == client.name or "admin" in client.scopes
