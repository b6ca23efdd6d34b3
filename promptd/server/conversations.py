"""The two things a client can talk to, a graph and a guest, behind one face that never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from promptd.backends.base import Graph, PromptContext, Reply
from promptd.backends.ggml import GgmlGraph
from promptd.chat import ChatOptions, Message, Tool
from promptd.errors import Busy, PromptdError, RuntimeFailure, UnsupportedOperation
from promptd.server.errors import TooManySessions, UnknownModel, as_promptd_error
from promptd.server.guests import AnsweredTurn, GuestInstance
from promptd.server.keys import current_client
from promptd.server.turn import STOP_S, Outcome, Turn, Turns
from promptd.wasm.host import Host

GUEST_PREFIX = "guest/"
"""Opens the model names of guests; no graph's name can hold a slash."""

_ENGINE_THREADS = 32
"""Threads for what is brief but blocks: opening contexts, queueing turns. Loading a model takes one for each graph."""

_log = logging.getLogger(__name__)

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


class Conversations:
    """Opens conversations with what a `Host` knows. All methods belong to one event loop."""

    def __init__(self, host: Host, turns: Turns) -> None:
        self._host = host
        self._turns = turns
        self._guests: Counter[str] = Counter()
        self._preloading = False
        self._loading: dict[str, asyncio.Task[Graph]] = {}
        self._engine_threads = ThreadPoolExecutor(_ENGINE_THREADS, "engine-call")
        self._guest_threads = self._threads_for_guests()

    def models(self) -> list[str]:
        """Return every name `open` takes."""
        return [*self._host.graph_names(), *(GUEST_PREFIX + name for name in self._host.guest_names())]

    async def answer(
        self,
        model: str,
        messages: Sequence[Message],
        options: ChatOptions,
        *,
        raw: bool = False,
        tools: Sequence[Tool] = (),
    ) -> Turn:
        """Start the reply to `messages` in a conversation of its own, which ends with it; raises what `open` and
        `Conversation.start` raise.
        """
        if model.startswith(GUEST_PREFIX):
            _check_guest_can(messages, options, tools)
        last = next((message.content for message in reversed(messages) if message.role == "user"), "")
        conversation = await self.open(model, only_message=last, raw=raw, tools=tools)
        try:
            return await conversation.start(messages, options, ended=lambda _: conversation.close())
        except BaseException:
            conversation.close()
            raise

    async def open(
        self, model: str, *, only_message: str | None = None, raw: bool = False, tools: Sequence[Tool] = ()
    ) -> Conversation:
        """Open a conversation with a graph, or with `guest/NAME`; loads and compiles what is not yet.

        `only_message` is what a command guest reads from its standard input when there is to be only one turn. With
        `raw` a model goes on with text as it is, without its chat template, which no guest can. `tools` are what a
        model is told it may ask for to be called. Raises UnknownModel,
        UnsupportedOperation, Busy when there are as many guests as the settings allow, and what loading raises.
        """
        if model not in self.models():
            raise UnknownModel(model)
        if model.startswith(GUEST_PREFIX):
            if raw:
                raise UnsupportedOperation(
                    "a guest answers messages, it does not go on with a text; use /v1/chat/completions"
                )
            return await self._open_guest(model.removeprefix(GUEST_PREFIX), only_message)
        graph = await self._graph(model)
        if raw and isinstance(graph, GgmlGraph):
            open_context: Callable[[str], PromptContext] = graph.raw_context
        else:
            open_context = partial(graph.prompt_context, tools=tools)
        context = await _on(self._engine_threads, open_context, current_client().identity)
        return _GraphConversation(model, graph, context, self._turns, self._engine_threads)

    @property
    def _limit(self) -> int:
        return self._host.settings.server.max_sessions

    def _threads_for_guests(self) -> ThreadPoolExecutor:
        # One for the turn of each guest, and as many again to close them beside it.
        return ThreadPoolExecutor(2 * self._limit, "guest")

    def update(self) -> None:
        """Take the host's new settings: guests that are opened from now on have as many threads as they may need."""
        self._guest_threads = self._threads_for_guests()

    @property
    def guests(self) -> int:
        """How many instances of guests are open."""
        return self._guests.total()

    async def load(self, model: str) -> None:
        """Load a graph ahead of its first prompt; raises UnknownModel, and what loading raises."""
        if model not in self.models():
            raise UnknownModel(model)
        if not model.startswith(GUEST_PREFIX):
            await self._graph(model)

    async def graph(self, model: str) -> Graph:
        """Return a graph, loaded if need be; raises UnknownModel, UnsupportedOperation for a guest."""
        if model not in self.models():
            raise UnknownModel(model)
        if model.startswith(GUEST_PREFIX):
            raise UnsupportedOperation(f"{model} is a guest, which answers messages only; name a graph")
        return await self._graph(model)

    async def takes_tools(self, model: str) -> bool:
        """Return whether a graph presents tools to its model as that was trained for; loads it if need be.

        Raises UnknownModel.
        """
        if model not in self.models():
            raise UnknownModel(model)
        graph = None if model.startswith(GUEST_PREFIX) else await self._graph(model)
        return graph is not None and not (isinstance(graph, GgmlGraph) and not graph.info.takes_tools)

    async def preload(self) -> None:
        """Load every graph; one that cannot be loaded is logged, and tried again when it is asked for."""
        self._preloading = True
        for name in self._host.graph_names():
            try:
                await self._graph(name)
            except PromptdError as error:
                _log.error("graph %s cannot be loaded: %s", name, error)
        self._preloading = False

    def status(self) -> str:
        """Return whether prompts are answered: `ready`, `loading` or `shutting-down`."""
        if self._turns.draining:
            return "shutting-down"
        return "loading" if self._loading or self._preloading else "ready"

    async def _graph(self, name: str) -> Graph:
        # However many wait for a graph to load, they hold one thread.
        if (task := self._loading.get(name)) is None:
            task = self._loading[name] = asyncio.create_task(_on(self._engine_threads, self._host.graph, name))
            task.add_done_callback(lambda _: self._loading.pop(name))
        return await asyncio.shield(task)

    async def _open_guest(
        self, name: str, only_message: str | None = None, past: Sequence[AnsweredTurn] = ()
    ) -> Conversation:
        if self._guests.total() >= self._limit:
            raise Busy(f"all {self._limit} places for guests are taken; close a session, or raise server.max-sessions")
        limit = self._host.guest_settings(name).max_sessions
        if limit is not None and self._guests[name] >= limit:
            raise TooManySessions(
                f"guest {name} may run {limit} times at once, and does; close a session, or raise its max-sessions"
            )
        self._guests[name] += 1
        release = partial(self._release_guest, name)
        started = time.perf_counter()
        try:
            client = current_client().name
            instance = await _on(self._guest_threads, GuestInstance, self._host, name, client, only_message, past)
        except BaseException:
            release()
            raise
        self._turns.metrics.guest_start.labels(name).observe(time.perf_counter() - started)
        return _GuestConversation(
            name, instance, self._turns, self._guest_threads, lambda past: self._open_guest(name, past=past), release
        )

    def _release_guest(self, name: str) -> None:
        self._guests[name] -= 1

    async def close(self) -> None:
        """Wait for the guests to end; every conversation has been closed before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self.guests:
                    await asyncio.sleep(0.02)
        # Not waited for: what a thread of the engine waits for ends with the graph, which the host closes next.
        self._guest_threads.shutdown(wait=False)
        self._engine_threads.shutdown(wait=False)


class _GraphConversation:
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
        reply: Reply = await _on(self._threads, self._context.send, messages, options)
        try:
            turn = self._turns.start(self._model, reply.cancel, ended)
        except Busy:
            reply.cancel()
            raise
        reply.subscribe(turn.put)
        return turn

    async def fork(self) -> Conversation:
        context: PromptContext = await _on(self._threads, self._context.fork)
        return _GraphConversation(self._model, self._graph, context, self._turns, self._threads)

    async def rewind(self, turns: int) -> None:
        await _on(self._threads, self._context.rewind, turns)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # The threads have gone: so will the context, with its graph.
            self._threads.submit(self._context.close)
        self._graph = None


class _GuestConversation:
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
            self._instance = await _on(self._threads, self._instance.renewed)
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


def _check_guest_can(messages: Sequence[Message], options: ChatOptions, tools: Sequence[Tool]) -> None:
    """Refuse what would change the shape of a guest's reply; how its models sample it decides itself anyway."""
    if tools or any(message.calls for message in messages):
        raise UnsupportedOperation("a guest takes no tools; ask a graph for those")
    if options.json_schema or options.logprobs is not None:
        raise UnsupportedOperation("a guest's reply has no format and no log-probabilities; ask a graph for those")


async def _on(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    context = copy_context()  # the log names the request also on the thread
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(function, *args, **kwargs))
