"""The behaviour of wasi-nn and of promptd:prompt for one session: plain values in and out, PromptdErrors out.

Every ABI is a thin face on `Nn`: it converts arguments and results and adds nothing. Limits and grants are enforced
here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from promptd.backends.base import Configurable, Graph, PromptContext, Reply
from promptd.backends.from_bytes import open_bytes
from promptd.backends.text import Metered, TextGraph
from promptd.chat import ChatOptions, Completion, Message
from promptd.errors import (
    InvalidArgument,
    InvalidEncoding,
    ModelMissing,
    NotFound,
    PromptdError,
    TooLarge,
    UnsupportedOperation,
)
from promptd.tensor import NamedTensor, TensorType
from promptd.wasm.control import Control
from promptd.wasm.grants import Grant
from promptd.wasm.held import (
    NOTHING,
    ChatReply,
    ChatSession,
    Execution,
    LoadedGraph,
    Prompt,
    size_of,
)
from promptd.wasm.resources import Resources
from promptd.wasm.traps import GuestTrap

_grants_log = logging.getLogger("promptd.grants")

RESOURCES_LIMIT = 100_000
"""Most handles one guest can hold at once: far above what a guest needs, far below what hurts the host."""

NAME_SHOWN = 80
"""Characters of a guest's name for a thing that errors and logs show."""

OWN_GRAPHS_LIMIT = 4
"""Most graphs one guest can have brought as bytes at once."""

ENCODINGS = ("onnx", "ggml", "autodetect")
"""The graph encodings promptd has a backend for; the other encodings of wasi-nn are refused."""


class Nn:
    """One session's models: what its grant allows, and what its guest holds."""

    def __init__(
        self,
        guest: str,
        grant: Grant,
        graphs: Callable[[str], Graph],
        control: Control,
        write: Callable[[str], None],
        identity: str = "",
    ) -> None:
        self._guest = guest
        self._identity = identity or guest
        self.write = write
        """Takes a part of a handler's reply, before the whole is returned."""
        self._grant = grant
        self._graphs = graphs
        self._control = control
        self.resources = Resources()
        self._contexts = 0
        self._held_bytes = 0
        self._own_graphs: list[LoadedGraph] = []
        self.usage = NOTHING
        """What all replies so far have cost."""

    @property
    def tokens_used(self) -> int:
        """Prompt and generated tokens so far, which the grant limits."""
        return self.usage.prompt + self.usage.generated

    # Handles

    def hold(self, thing: object) -> int:
        """Give the guest a handle on `thing`; ends the guest when it holds too much."""
        handle = self.resources.add(thing)
        self.hold_bytes(size_of(thing))
        if len(self.resources) > RESOURCES_LIMIT:
            self.end(f"it holds more than {RESOURCES_LIMIT} handles")
        return handle

    def hold_bytes(self, change: int) -> None:
        """Count bytes the host holds for the guest behind its handles; ends the guest when they are too many."""
        self._held_bytes += change
        if self._held_bytes > self._grant.limits.memory:
            self.end(f"it holds more than its memory limit of {self._grant.limits.memory} bytes in tensors")

    def take(self, handle: int, kind: type[Any]) -> Any:
        """Take back what the guest gives away with its handle."""
        thing = self.resources.take(handle, kind)
        self._held_bytes -= size_of(thing)
        return thing

    def drop(self, handle: int) -> None:
        """The guest dropped its handle."""
        thing = self.resources.pop(handle)
        self._held_bytes -= size_of(thing) + (thing.held_bytes if isinstance(thing, Execution) else 0)
        self._close(thing)
        self.unload_unused()

    def close(self) -> None:
        """Free all that the guest still holds."""
        self.resources.sweep(self._close)
        self.unload_unused()

    def _close(self, thing: object) -> None:
        try:
            if isinstance(thing, Prompt | Execution):
                thing.close()
                if isinstance(thing, Execution):
                    self._count_execution(thing)
                    self.retire(thing)
                else:
                    self._contexts -= 1
            elif isinstance(thing, ChatReply) and not thing.counted:
                thing.reply.cancel()
                if self._control.stopped is None:
                    self._count(thing)
        except PromptdError:
            pass

    def unload_unused(self) -> None:
        """Unload the graphs the guest brought and neither it nor a context of it holds any more."""
        if not self._own_graphs:
            return
        used = {id(thing) for thing in self.resources} | {id(getattr(thing, "graph", None)) for thing in self.resources}
        for loaded in [loaded for loaded in self._own_graphs if id(loaded) not in used]:
            self._own_graphs.remove(loaded)
            loaded.graph.close()

    def end(self, reason: str) -> None:
        """End the guest, now."""
        self._control.stop(GuestTrap(f"guest {self._guest} was stopped: {reason}"))
        self._control.check()

    # Graphs

    def load_by_name(self, name: str) -> LoadedGraph:
        """Return the granted graph `name`; NotFound tells one that is not granted like one that is not there."""
        missing = NotFound(f"no graph is named {_short(name)}")
        if name not in self._grant.graphs:
            _grants_log.warning(
                "guest %s asked for graph %s, which it is not granted; grant it with --graph NAME=MODEL, "
                "or in the guest's `graphs` in promptd.toml",
                self._guest,
                _short(name),
            )
            raise missing
        with self._control.host_call():
            try:
                return LoadedGraph(name, self._graphs(name))
            except NotFound as error:
                _grants_log.warning(
                    "guest %s is granted graph %s, but it is not there: %s", self._guest, _short(name), error
                )
                raise ModelMissing(str(missing)) from error

    def load(self, builders: Sequence[bytes], encoding: str) -> LoadedGraph:
        """Load the model in the first of `builders`, a small GGUF or ONNX file.

        Raises InvalidEncoding where no backend knows the encoding, TooLarge beyond the limits, and what the backend
        raises.
        """
        if encoding not in ENCODINGS:
            raise InvalidEncoding(
                f"promptd has no backend for the encoding {encoding}; it executes {' and '.join(ENCODINGS[:2])}"
            )
        limit = self._grant.limits.own_model
        if limit == 0:
            raise UnsupportedOperation("this guest may not bring models of its own; load a granted graph by its name")
        if len(self._own_graphs) >= OWN_GRAPHS_LIMIT:
            raise TooLarge(f"the limit of {OWN_GRAPHS_LIMIT} graphs of the guest's own is reached; drop one first")
        with self._control.host_call():
            loaded = LoadedGraph("", open_bytes(builders, encoding, limit, self._control.deadline), own=True)
        self._own_graphs.append(loaded)
        return loaded

    def count_tokens(self, name: str, text: str) -> int:
        """Return how many tokens `text` is for the granted graph `name`."""
        self.check_size(len(text.encode()))
        graph = self.load_by_name(name).graph
        with self._control.host_call():
            return graph.count_tokens(text)

    # Tensors

    def open_execution(self, graph: LoadedGraph) -> Execution:
        """Open an execution context on `graph`."""
        self.check_contexts()
        return self.opened(Execution(graph, graph.graph.execution_context(self._identity)))

    def compute(self, execution: Execution, inputs: Sequence[NamedTensor]) -> list[NamedTensor]:
        """Run one inference; InvalidArgument for two inputs of one name, or numbers of another length than their shape.

        U8 is passed on at any length: many guests give a text the shape `[1]`. A graph that needs more checks more.
        """
        seen: set[str] = set()
        for name, tensor in inputs:
            if name in seen:
                raise InvalidArgument(f"two inputs are named {_short(name)}")
            seen.add(name)
            if isinstance(execution.graph.graph, TextGraph):
                self.check_size(len(tensor.data))
            elif tensor.type is not TensorType.U8:
                tensor.check(name[:NAME_SHOWN])
        context: Any = execution.context
        with self.costing(execution, context.close) as left:
            if isinstance(context, Metered):
                context.tokens_left = left
            outputs: list[NamedTensor] = context.compute(inputs, deadline=self._control.deadline)
            return outputs

    # What faces with contexts of their own kind build on

    @property
    def guest(self) -> str:
        """The guest's name, for log lines."""
        return self._guest

    @property
    def identity(self) -> str:
        """Whom the models account the guest's use to."""
        return self._identity

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` past which the running call has to end."""
        return self._control.deadline

    def opened(self, execution: Execution) -> Execution:
        """Count a context that `check_contexts` allowed."""
        self._contexts += 1
        return execution

    def retire(self, execution: Execution) -> None:
        """Count a context no longer."""
        if not execution.retired:
            execution.retired = True
            self._contexts -= 1

    @contextmanager
    def costing(self, execution: Execution, cancel: Callable[[], None]) -> Iterator[int | None]:
        """Surround a host call that may cost tokens; gives how many are left, None without limit.

        `cancel` is called when the guest is stopped meanwhile. Raises TooLarge when none are left.
        """
        left = self.tokens_left()
        try:
            with self._control.host_call(), self._control.cancelling(cancel):
                yield left
        finally:
            self._count_execution(execution)

    def host_call(self) -> AbstractContextManager[None]:
        """Surround what may block on a model."""
        return self._control.host_call()

    def tokens_left(self) -> int | None:
        """Return how many tokens the guest may still use, None without limit; raises TooLarge when that is none."""
        if (limit := self._grant.limits.tokens) is None:
            return None
        if self.tokens_used >= limit:
            raise TooLarge(f"the token limit of {limit} is reached: {self.tokens_used} are used")
        return limit - self.tokens_used

    def _count_execution(self, execution: Execution) -> None:
        usage = getattr(execution.context, "usage", NOTHING)
        self.usage += usage - execution.counted
        execution.counted = usage

    # Prompts

    def open_prompt(self, graph: LoadedGraph) -> Prompt:
        """Open a conversation on `graph`."""
        return Prompt(graph, self._context(graph, ChatOptions()))

    def open_chat(self, name: str, options: ChatOptions) -> ChatSession:
        """Open a conversation on the granted graph `name` with options of its own."""
        graph = self.load_by_name(name)
        return ChatSession(graph, self._context(graph, options), options)

    def prompt(self, prompt: Prompt, text: str) -> str:
        """Take one user turn and return the reply's text."""
        return self.send(prompt, [Message("user", text)]).text

    def send(self, prompt: Prompt, messages: Sequence[Message]) -> Completion:
        """Append `messages` and return the whole reply."""
        reply = ChatReply(self._start(prompt, messages))
        return self.finish(reply)

    def stream(self, session: ChatSession, messages: Sequence[Message]) -> ChatReply:
        """Append `messages` and return the reply while it is being made."""
        return ChatReply(self._start(session, messages))

    def next_piece(self, reply: ChatReply) -> str | None:
        """Return the next piece of the reply, or None at its end."""
        with self._control.host_call(), self._control.cancelling(reply.reply.cancel):
            piece = reply.next()
        if piece is None and not reply.counted:
            self._count(reply)
        return piece

    def finish(self, reply: ChatReply) -> Completion:
        """Wait for the end of the reply and return it whole."""
        with self._control.host_call(), self._control.cancelling(reply.reply.cancel):
            return self._count(reply)

    def cancel_replies(self) -> bool:
        """Cancel the streams the guest reads, from any thread; false when there are none."""
        replies = [thing for thing in self.resources if isinstance(thing, ChatReply) and not thing.counted]
        for each in replies:
            each.reply.cancel()
        return bool(replies)

    def fork(self, session: ChatSession) -> ChatSession:
        """Return a second conversation with the same past."""
        self.check_contexts()
        with self._control.host_call():
            forked = ChatSession(session.graph, session.context.fork(), session.options)
        self._contexts += 1
        return forked

    def rewind(self, session: ChatSession, turns: int) -> None:
        """Forget the last `turns` turns."""
        with self._control.host_call():
            session.context.rewind(turns)

    def _context(self, graph: LoadedGraph, options: ChatOptions) -> PromptContext:
        self.check_contexts()
        with self._control.host_call():
            context = graph.graph.prompt_context(self._identity, options)
        self._contexts += 1
        return context

    def _start(self, prompt: Prompt, messages: Sequence[Message]) -> Reply:
        self.check_size(sum(len(message.content.encode()) for message in messages))
        options = ChatOptions()
        if (limit := self._grant.limits.tokens) is not None:
            left = limit - self.tokens_used
            if left <= 0 or self._at_least(prompt.graph.graph, messages) > left:
                raise TooLarge(f"the token limit of {limit} is reached: {self.tokens_used} are used")
            options = replace(options, max_tokens=min(left, self._max_tokens(prompt) or left))
        with self._control.host_call():
            return prompt.context.send(messages, options, deadline=self._control.deadline)

    def _max_tokens(self, prompt: Prompt) -> int | None:
        """Tokens the conversation's own options let a reply have."""
        graph = prompt.graph.graph
        of_graph = graph.settings.max_tokens if isinstance(graph, Configurable) else None
        return prompt.options.max_tokens or of_graph

    def _at_least(self, graph: Graph, messages: Sequence[Message]) -> int:
        """Tokens the messages cost at least, without the template; 0 where the graph cannot tell."""
        try:
            return sum(graph.count_tokens(message.content) for message in messages)
        except UnsupportedOperation:
            return 0

    def _count(self, reply: ChatReply) -> Completion:
        completion = reply.reply.result()
        if not reply.counted:
            reply.counted = True
            self.usage += completion.usage
        return completion

    def check_contexts(self) -> None:
        """Raise TooLarge when the guest has as many contexts as it may have."""
        limit = self._grant.limits.contexts
        if self._contexts >= limit:
            raise TooLarge(f"the limit of {limit} contexts is reached; drop one first")

    def check_size(self, size: int) -> None:
        """Raise TooLarge for a prompt of so many bytes."""
        limit = self._grant.limits.prompt
        if size > limit:
            raise TooLarge(f"the prompt has {size} bytes and the limit is {limit}")


def _short(name: str) -> str:
    """Return a guest's name for a thing, quoted and cut, fit for a log line."""
    return repr(name[:NAME_SHOWN])
