"""The two things a client can talk to, a graph and a guest, behind one face that never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, Protocol, TypeVar

from promptd.backends.base import Graph, PromptContext, Reply
from promptd.chat import ChatOptions, Message
from promptd.errors import Busy, PromptdError, RuntimeFailure
from promptd.server.errors import as_promptd_error
from promptd.server.guests import AnsweredTurn, GuestInstance
from promptd.server.turn import Outcome, Turn, Turns

GUEST_PREFIX = "guest/"
"""Opens the model names of guests; no graph's name can hold a slash."""

P = ParamSpec("P")
T = TypeVar("T")


class Conversation(Protocol):
    """What a client talks to."""

    @property
    def ended(self) -> bool:
        """Whether no further turn can be had, because the guest has exited, trapped or been stopped."""

    async def start(
        self, messages: Sequence[Message], options: ChatOptions, *, ended: Callable[[Outcome], None]
    ) -> Turn:
        """Start the reply to `messages`; `ended` is called on the event loop once it is over.

        Raises a PromptdError, in which case `ended` is not called.
        """

    async def fork(self) -> Conversation:
        """Return a second conversation with the same past. Not while a turn runs; raises UnsupportedOperation of a
        command, Busy and TooManySessions at the limits of guests.
        """

    async def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns. Not while a turn runs; raises InvalidArgument when there are fewer, and
        UnsupportedOperation of a command.
        """

    def close(self) -> None:
        """Free what is held, without waiting for it. Idempotent."""


class GraphConversation:
    """A prompt context of a graph. No thread waits for its replies: the engine's own calls `Turn.put`."""

    ended = False

    def __init__(
        self, model: str, graph: Graph | None, context: PromptContext, turns: Turns, threads: ThreadPoolExecutor
    ) -> None:
        self._model = model
        self._graph: Graph | None = graph
        """It stays loaded for as long as it is referred to, also when the settings lose it."""
        self._context = context
        self._turns = turns
        self._threads = threads

    async def start(
        self, messages: Sequence[Message], options: ChatOptions, *, ended: Callable[[Outcome], None]
    ) -> Turn:
        reply: Reply = await on_thread(self._threads, self._context.send, messages, options)
        try:
            turn = self._turns.start(self._model, reply.cancel, ended)
        except Busy:
            reply.cancel()
            raise
        reply.subscribe(turn.put)
        return turn

    async def fork(self) -> Conversation:
        context: PromptContext = await on_thread(self._threads, self._context.fork)
        return GraphConversation(self._model, self._graph, context, self._turns, self._threads)

    async def rewind(self, turns: int) -> None:
        await on_thread(self._threads, self._context.rewind, turns)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # The threads have gone: so will the context, with its graph.
            self._threads.submit(self._context.close)
        self._graph = None


class GuestConversation:
    """An instance of a guest. It takes a thread while it answers, and none of the server's between turns."""

    def __init__(
        self,
        name: str,
        instance: GuestInstance,
        turns: Turns,
        threads: ThreadPoolExecutor,
        fork: Callable[[Sequence[AnsweredTurn]], Awaitable[Conversation]],
        closed: Callable[[], None],
    ) -> None:
        """`fork` makes a conversation with another instance and a past of its own."""
        self._name = name
        self._instance = instance
        self._turns = turns
        self._threads = threads
        self._fork = fork
        self._closed = closed
        self._open = True
        self._cancelled = False

    @property
    def ended(self) -> bool:
        return not self._open or (self._instance.ended and not self._can_go_on)

    @property
    def _can_go_on(self) -> bool:
        """Whether another instance can take the place of one that was stopped with its turn."""
        return self._cancelled and self._instance.is_handler

    def _cancel(self) -> None:
        self._cancelled = True
        self._instance.stop()

    async def start(
        self, messages: Sequence[Message], options: ChatOptions, *, ended: Callable[[Outcome], None]
    ) -> Turn:
        def on_end(outcome: Outcome) -> None:
            if isinstance(outcome, PromptdError):
                self._turns.metrics.guest_failed(self._name, outcome)
            ended(outcome)

        if self._instance.ended and self._can_go_on:
            self._instance = await on_thread(self._threads, self._instance.renewed)
            if not self._open:
                self._threads.submit(self._instance.close)
                raise RuntimeFailure("the session was closed")
        self._cancelled = False
        turn = self._turns.start(GUEST_PREFIX + self._name, self._cancel, on_end)

        def work() -> None:
            try:
                turn.put(self._instance.answer(messages, turn.put))
            except BaseException as error:
                turn.put(as_promptd_error(error))
            if self._can_go_on:
                self._instance.close()  # so that it holds nothing until another takes its place

        self._threads.submit(copy_context().run, work)
        return turn

    async def fork(self) -> Conversation:
        return await self._fork(self._instance.past)

    async def rewind(self, turns: int) -> None:
        self._instance.rewind(turns)

    def close(self) -> None:
        if self._open:
            self._open = False
            loop = asyncio.get_running_loop()
            closing = self._threads.submit(self._instance.close)
            closing.add_done_callback(lambda _: loop.call_soon_threadsafe(self._closed))


async def on_thread(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `function` returns, which blocks one of `threads` and not the event loop."""
    context = copy_context()  # the log names the request also on the thread
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(function, *args, **kwargs))
