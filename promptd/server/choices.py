"""Several replies for one request: each in a conversation of its own, all in the engine's batch together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from fastapi import Request
from starlette.responses import StreamingResponse

from promptd.chat import ChatOptions, Completion, Message, Tool
from promptd.errors import PromptdError
from promptd.server.conversations import Conversations
from promptd.server.replies import BEGIN_S, KEEP_ALIVE_S, CancelledStream, ServerSentEvents, cancelled_when_left
from promptd.server.turn import Event, Turn


class ChoicesEncoding(Protocol):
    """How the events of several choices look on the wire; each method returns whole events."""

    def begin(self, choices: int) -> bytes:
        """Return what comes before the first piece of any."""

    def piece(self, index: int, text: str) -> bytes:
        """Return one piece of choice `index`."""

    def end(self, index: int, completion: Completion) -> bytes:
        """Return the end of choice `index`."""

    def close(self, completions: Sequence[Completion]) -> bytes:
        """Return what comes after the end of the last."""

    def fail(self, error: PromptdError) -> bytes:
        """Return the end of a stream that `error` cut short."""


class Choices:
    """The turns of one request as one stream of what happens in any of them. Belongs to the event loop."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._listeners = [asyncio.create_task(self._listen(index, turn)) for index, turn in enumerate(turns)]
        self._completions: dict[int, Completion] = {}

    async def _listen(self, index: int, turn: Turn) -> None:
        event: Event | None = None
        try:
            while not isinstance(event, Completion):
                event = await turn.next()
                if event is not None:
                    self._events.put_nowait((index, event))
        except PromptdError as error:
            self._events.put_nowait((index, error))

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def ended(self) -> bool:
        """Whether all are whole."""
        return len(self._completions) == len(self._turns)

    @property
    def completions(self) -> list[Completion]:
        """All whole replies, by index, once they have `ended`."""
        return [self._completions[index] for index in range(len(self._turns))]

    async def next(self, timeout_s: float | None = None) -> tuple[int, str | Completion] | None:
        """Return the next piece or end of any choice and its index, or None when `timeout_s` pass without one.

        Raises the PromptdError that ended the first to fail.
        """
        try:
            async with asyncio.timeout(timeout_s):
                index, event = await self._events.get()
        except TimeoutError:
            return None
        if isinstance(event, PromptdError):
            raise event
        if isinstance(event, Completion):
            self._completions[index] = event
        return index, event

    def cancel(self) -> None:
        """Stop making all that are not whole. Idempotent."""
        for turn in self._turns:
            turn.cancel()
        for listener in self._listeners:
            listener.cancel()


async def start_choices(
    conversations: Conversations,
    model: str,
    prompts: Sequence[Sequence[Message]],
    options: ChatOptions,
    n: int = 1,
    *,
    raw: bool = False,
    tools: Sequence[Tool] = (),
) -> Choices:
    """Start `n` replies to each of `prompts`, in order; raises what `Conversations.answer` raises of one, and cancels
    the others then.
    """

    async def start(messages: Sequence[Message], index: int) -> Turn:
        seeded = options if options.seed is None else replace(options, seed=(options.seed + index) % 2**32)
        return await conversations.answer(model, messages, seeded, raw=raw, tools=tools)

    starts = [asyncio.create_task(start(messages, index)) for messages in prompts for index in range(n)]
    try:
        return Choices(await asyncio.gather(*starts))
    except BaseException:
        for task in starts:
            task.cancel()
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, Turn):
                outcome.cancel()
        raise


async def whole_choices(request: Request, choices: Choices) -> list[Completion]:
    """Wait for all; raises the first PromptdError, and cancels the others."""
    async with cancelled_when_left(request, choices):
        while not choices.ended:
            await choices.next()
    return choices.completions


async def stream_choices(request: Request, choices: Choices, encoding: ChoicesEncoding) -> StreamingResponse:
    """Return a response that sends the choices as they are made; raises the PromptdError of one that fails at once."""
    async with cancelled_when_left(request, choices):
        first = await choices.next(BEGIN_S)
    return CancelledStream(choices, _events(choices, first, encoding), ServerSentEvents.media_type)


async def _events(
    choices: Choices, event: tuple[int, str | Completion] | None, encoding: ChoicesEncoding
) -> AsyncIterator[bytes]:
    yield encoding.begin(len(choices))
    try:
        while True:
            if event is None:
                yield ServerSentEvents.keep_alive
            else:
                index, told = event
                yield encoding.end(index, told) if isinstance(told, Completion) else encoding.piece(index, told)
            if choices.ended:
                break
            event = await choices.next(KEEP_ALIVE_S)
        yield encoding.close(choices.completions)
    except PromptdError as error:
        yield encoding.fail(error)
