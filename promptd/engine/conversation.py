"""A conversation with a model in the parent process, and its transcript, which outlives the worker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from promptd.chat import Message, Role
from promptd.engine.adapters import Adapters
from promptd.engine.link import Link
from promptd.engine.messages import Accepted, Cancel, Close, Ended, Failed, Follow, Fork, Open, Rewind, Send
from promptd.engine.options import Sampling
from promptd.engine.reply import Reply
from promptd.engine.supervisor import Notice, Supervisor
from promptd.engine.transcript import Transcript
from promptd.errors import (
    BY_NAME,
    Busy,
    InvalidArgument,
    InvalidEncoding,
    PromptdError,
    RuntimeFailure,
    TooLarge,
)

MAX_TURN_CHARACTERS = 32 * 1024**2
"""Far beyond any context; keeps the frame of a turn well under channel.MAX_FRAME_BYTES."""

_DEFAULTS = Sampling()
_ROLES = frozenset(get_args(Role))


class Conversation:
    """One conversation. Its methods may be called from any thread; one reply is made at a time."""

    def __init__(
        self,
        supervisor: Supervisor,
        guest: str,
        template: Literal["auto", "none"],
        overflow: Literal["shift", "error"],
        transcript: Transcript,
        public: tuple[Message, ...] | None = None,
        adapters: Adapters = (),
    ) -> None:
        self._supervisor = supervisor
        self._guest = guest
        self._template: Literal["auto", "none"] = template
        self._overflow: Literal["shift", "error"] = overflow
        self._transcript = transcript
        self._public = public
        self._adapters = adapters
        self._number = supervisor.number()
        self._opened_in: Link | None = None
        self._lock = threading.Lock()
        self._reply: Reply | None = None
        self._closed = False

    @property
    def turns(self) -> int:
        """How many turns the conversation remembers."""
        return len(self._transcript.turns)

    def send(
        self, messages: Sequence[Message], sampling: Sampling = _DEFAULTS, *, deadline: float | None = None
    ) -> Reply:
        """Append `messages` and start the reply; a turn that fails or is cancelled leaves the conversation as it
        was.

        Returns when the worker has queued the turn. `deadline` is a `time.monotonic()` value. Raises
        InvalidArgument for messages or options the model cannot take, TooLarge when they cannot fit, Busy while
        another reply is made or when the queue is full, TimedOut, and RuntimeFailure when the worker cannot be had.
        """
        checked = _checked(messages)
        try:
            return self._begin(checked, sampling, deadline)
        except (
            _WorkerLost
        ):  # before it took the turn, so nothing has happened yet; a second time is the caller's to know
            return self._begin(checked, sampling, deadline)

    def fork(self) -> Conversation:
        """Return a second conversation with the same past; it shares the KV cells, so it costs no prefill. Busy
        during a reply.
        """
        with self._lock:
            self._check_free()
            copy = Conversation(
                self._supervisor,
                self._guest,
                self._template,
                self._overflow,
                self._transcript.fork(),
                self._public,
                self._adapters,
            )
            if self._opened_in is not None:
                self._opened_in.send(Fork(self._number, copy._number))
                copy._opened_in = self._opened_in
            return copy

    def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns; what came before is not decoded again. InvalidArgument when there are
        fewer turns.
        """
        with self._lock:
            self._check_free()
            if not 0 <= turns <= self.turns:
                raise InvalidArgument(f"cannot rewind {turns} turns of a conversation that has {self.turns}")
            self._transcript.rewind(turns)
            if self._opened_in is not None:
                self._opened_in.send(Rewind(self._number, turns))

    def close(self) -> None:
        """Free what the conversation holds; a running reply is cancelled. Idempotent."""
        with self._lock:
            link = None if self._closed else self._opened_in
            self._closed = True
        if link is not None:
            link.send(Close(self._number))

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._opened_in is not None:
            self._supervisor.discard(self._opened_in, self._number)

    def _begin(self, messages: tuple[Message, ...], sampling: Sampling, deadline: float | None) -> Reply:
        """Start a reply; raises _WorkerLost when the worker died before it took the turn."""
        with self._lock:
            self._check_free()
            link = self._supervisor.link()
            call = self._supervisor.number()
            reply = Reply(
                messages,
                deadline,
                partial(link.send, Cancel(call)),
                partial(self._abandon, link, call),
                partial(link.send, Follow(call)),
            )
            if self._opened_in is not link:
                link.send(
                    Open(
                        self._number,
                        self._guest,
                        self._template,
                        self._overflow,
                        self._transcript,
                        self._public,
                        self._adapters,
                    )
                )
                self._opened_in = link
            self._reply = reply
        self._supervisor.call(link, call, partial(self._on_notice, reply))
        link.send(Send(call, self._number, messages, sampling, deadline))
        try:
            reply.wait_accepted()
        except RuntimeFailure as error:
            if link.alive:
                raise
            raise _WorkerLost(str(error)) from error
        except KeyboardInterrupt:
            reply.cancel()
            raise
        return reply

    def _on_notice(self, reply: Reply, notice: Notice) -> None:
        """Take what the worker says about `reply`, on the reader thread."""
        match notice:
            case str():
                reply.add(notice)
            case Accepted():
                reply.accept()
            case Ended():
                self._commit(reply, notice)
                reply.end(notice.stop_reason, notice.usage)
            case Failed():
                self._free()
                reply.fail(BY_NAME.get(notice.code, RuntimeFailure)(notice.sentence))
            case PromptdError():
                self._free()
                reply.fail(notice)

    def _commit(self, reply: Reply, ended: Ended) -> None:
        """Remember the turn. Its text is what this side has sent and seen; only the tokens are taken on the
        worker's word.
        """
        with self._lock:
            self._reply = None
            if ended.turn is not None:
                turn = replace(ended.turn, messages=reply.messages, reply=reply.text)
                self._transcript.commit(turn, min(ended.dropped, self.turns))

    def _free(self) -> None:
        with self._lock:
            self._reply = None

    def _abandon(self, link: Link, call: int) -> None:
        """Give up on a worker that does not answer: the conversation goes on under a new number, from its
        transcript.
        """
        self._supervisor.forget(call)
        with self._lock:
            self._reply = None
            self._opened_in = None
            number, self._number = self._number, self._supervisor.number()
        link.send(Close(number))

    def _check_free(self) -> None:
        if self._closed:
            raise InvalidArgument("the conversation is closed")
        if self._reply is not None:
            raise Busy("the conversation is making a reply; wait for its end, or cancel it")


class _WorkerLost(RuntimeFailure):
    """The worker died before it took a turn."""


def _checked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return `messages` if they can be sent."""
    if not messages:
        raise InvalidArgument("a turn needs at least one message")
    for message in messages:
        if message.role not in _ROLES:
            raise InvalidArgument(f"{message.role!r} is not a role; the roles are {', '.join(sorted(_ROLES))}")
        try:
            message.content.encode()
        except UnicodeEncodeError as error:
            raise InvalidEncoding(f"a message of role {message.role} is not valid Unicode: {error.reason}") from error
    size = sum(len(message.content) for message in messages)
    if size > MAX_TURN_CHARACTERS:
        raise TooLarge(f"a turn of {size} characters is over the limit of {MAX_TURN_CHARACTERS}")
    return tuple(messages)
