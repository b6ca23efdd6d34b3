"""Opens conversations with graphs and guests by their names, as far as there are places."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from promptd.backends.base import Graph, PromptContext
from promptd.backends.ggml import GgmlGraph
from promptd.chat import ChatOptions, Message, Tool
from promptd.errors import Busy, PromptdError, UnsupportedOperation
from promptd.server.conversation import GUEST_PREFIX, Conversation, GraphConversation, GuestConversation, on_thread
from promptd.server.errors import TooManySessions, UnknownModel
from promptd.server.guests import AnsweredTurn, GuestInstance
from promptd.server.keys import current_client
from promptd.server.turn import STOP_S, Turn, Turns
from promptd.wasm.host import Host

_ENGINE_THREADS = 32
"""Threads for what is brief but blocks: opening contexts, queueing turns. Loading a model takes one for each graph."""

_log = logging.getLogger(__name__)


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

    def check(self, model: str) -> None:
        """Raise UnknownModel unless `open` takes the name."""
        if model not in self.models():
            raise UnknownModel(model)

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
        self.check(model)
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
        context = await on_thread(self._engine_threads, open_context, current_client().identity)
        return GraphConversation(model, graph, context, self._turns, self._engine_threads)

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
        self.check(model)
        if not model.startswith(GUEST_PREFIX):
            await self._graph(model)

    async def graph(self, model: str) -> Graph:
        """Return a graph, loaded if need be; raises UnknownModel, UnsupportedOperation for a guest."""
        self.check(model)
        if model.startswith(GUEST_PREFIX):
            raise UnsupportedOperation(f"{model} is a guest, which answers messages only; name a graph")
        return await self._graph(model)

    def keep_alive(self, model: str, seconds: float) -> None:
        """Keep the model of a loaded graph for so long after its last use, below 0 for ever; others are as they are."""
        graph = self._host.loaded_graphs().get(model)
        if isinstance(graph, GgmlGraph):
            graph.keep_alive(seconds)

    async def takes_tools(self, model: str) -> bool:
        """Return whether a graph presents tools to its model as that was trained for; loads it if need be.

        Raises UnknownModel.
        """
        self.check(model)
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
            task = self._loading[name] = asyncio.create_task(on_thread(self._engine_threads, self._host.graph, name))
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
            instance = await on_thread(self._guest_threads, GuestInstance, self._host, name, client, only_message, past)
        except BaseException:
            release()
            raise
        self._turns.metrics.guest_start.labels(name).observe(time.perf_counter() - started)
        return GuestConversation(
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


def _check_guest_can(messages: Sequence[Message], options: ChatOptions, tools: Sequence[Tool]) -> None:
    """Refuse what would change the shape of a guest's reply; how its models sample it decides itself anyway."""
    if tools or any(message.calls for message in messages):
        raise UnsupportedOperation("a guest takes no tools; ask a graph for those")
    if options.json_schema or options.logprobs is not None:
        raise UnsupportedOperation("a guest's reply has no format and no log-probabilities; ask a graph for those")
