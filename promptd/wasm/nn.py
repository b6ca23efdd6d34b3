"""The behaviour of wasi-nn and of promptd:prompt for one session: plain values in and out, PromptdErrors out.

Every ABI is a thin face on `Nn`: it converts arguments and results and adds nothing. Limits and grants are enforced
here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from promptd.backends.base import Configurable, Graph, PromptContext, Reply
from promptd.backends.text import Metered, TextGraph
from promptd.chat import ChatOptions, Completion, Message
from promptd.errors import InvalidArgument, PromptdError, UnsupportedOperation
from promptd.tensor import NamedTensor, TensorType
from promptd.wasm.control import Control
from promptd.wasm.grants import Grant
from promptd.wasm.guest_graphs import NAME_SHOWN, GuestGraphs, shown
from promptd.wasm.held import ChatReply, ChatSession, Execution, LoadedGraph, Prompt, size_of
from promptd.wasm.meter import Meter
from promptd.wasm.resources import Resources
from promptd.wasm.traps import GuestTrap

RESOURCES_LIMIT = 100_000
"""Most handles one guest can hold at once: far above what a guest needs, far below what hurts the host."""


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
        self._graphs = GuestGraphs(guest, grant, graphs, control)
        self._control = control
        self.resources = Resources()
        self._held_bytes = 0
        self.meter = Meter(grant.limits)
        """What the guest has used of its limits."""

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
                    self.meter.count_execution(thing)
                    self.meter.retire(thing)
                else:
                    self.meter.closed()
            elif isinstance(thing, ChatReply) and not thing.counted:
                thing.reply.cancel()
                if self._control.stopped is None:
                    self._count(thing)
        except PromptdError:
            pass

    def unload_unused(self) -> None:
        """Unload the graphs the guest brought and neither it nor a context of it holds any more."""
        self._graphs.unload_unused(self.resources)

    def end(self, reason: str) -> None:
        """End the guest, now."""
        self._control.stop(GuestTrap(f"guest {self._guest} was stopped: {reason}"))
        self._control.check()

    # Graphs

    def load_by_name(self, name: str) -> LoadedGraph:
        """Return the granted graph `name`; NotFound tells one that is not granted like one that is not there."""
        return self._graphs.load_by_name(name)

    def load(self, builders: Sequence[bytes], encoding: str) -> LoadedGraph:
        """Load the model in the first of `builders`, a small GGUF or ONNX file.

        Raises InvalidEncoding where no backend knows the encoding, TooLarge beyond the limits, and what the backend
        raises.
        """
        return self._graphs.load(builders, encoding)

    def count_tokens(self, name: str, text: str) -> int:
        """Return how many tokens `text` is for the granted graph `name`."""
        self.meter.check_size(len(text.encode()))
        graph = self.load_by_name(name).graph
        with self._control.host_call():
            return graph.count_tokens(text)

    # Tensors

    def open_execution(self, graph: LoadedGraph) -> Execution:
        """Open an execution context on `graph`."""
        self.meter.check_contexts()
        execution = Execution(graph, graph.graph.execution_context(self._identity))
        self.meter.opened()
        return execution

    def compute(self, execution: Execution, inputs: Sequence[NamedTensor]) -> list[NamedTensor]:
        """Run one inference; InvalidArgument for two inputs of one name, or numbers of another length than their shape.

        U8 is passed on at any length: many guests give a text the shape `[1]`. A graph that needs more checks more.
        """
        seen: set[str] = set()
        for name, tensor in inputs:
            if name in seen:
                raise InvalidArgument(f"two inputs are named {shown(name)}")
            seen.add(name)
            if isinstance(execution.graph.graph, TextGraph):
                self.meter.check_size(len(tensor.data))
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

    @contextmanager
    def costing(self, execution: Execution, cancel: Callable[[], None]) -> Iterator[int | None]:
        """Surround a host call that may cost tokens; gives how many are left, None without limit.

        `cancel` is called when the guest is stopped meanwhile. Raises TooLarge when none are left.
        """
        left = self.meter.tokens_left()
        try:
            with self._control.host_call(), self._control.cancelling(cancel):
                yield left
        finally:
            self.meter.count_execution(execution)

    def host_call(self) -> AbstractContextManager[None]:
        """Surround what may block on a model."""
        return self._control.host_call()

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
        self.meter.check_contexts()
        with self._control.host_call():
            forked = ChatSession(session.graph, session.context.fork(), session.options)
        self.meter.opened()
        return forked

    def rewind(self, session: ChatSession, turns: int) -> None:
        """Forget the last `turns` turns."""
        with self._control.host_call():
            session.context.rewind(turns)

    def _context(self, graph: LoadedGraph, options: ChatOptions) -> PromptContext:
        self.meter.check_contexts()
        with self._control.host_call():
            context = graph.graph.prompt_context(self._identity, options)
        self.meter.opened()
        return context

    def _start(self, prompt: Prompt, messages: Sequence[Message]) -> Reply:
        self.meter.check_size(sum(len(message.content.encode()) for message in messages))
        options = ChatOptions()
        if (left := self.meter.tokens_left()) is not None:
            if self._at_least(prompt.graph.graph, messages) > left:
                raise self.meter.no_tokens()
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
        self.meter.count_reply(reply, completion.usage)
        return completion
