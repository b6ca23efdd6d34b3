"""Several replies for one request: each in a conversation of its own, all in the engine's batch together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request

from promptd.chat import ChatOptions, Completion, Message, Tool
from promptd.server.conversations import Conversations
from promptd.server.replies import whole


async def choices(
    request: Request,
    conversations: Conversations,
    model: str,
    prompts: Sequence[Sequence[Message]],
    options: ChatOptions,
    n: int = 1,
    *,
    raw: bool = False,
    tools: Sequence[Tool] = (),
) -> list[Completion]:
    """Return `n` replies to each of `prompts`, in order; raises the first PromptdError, and cancels the others."""

    async def reply(messages: Sequence[Message], index: int) -> Completion:
        seeded = options if options.seed is None else replace(options, seed=(options.seed + index) % 2**32)
        return await whole(request, await conversations.answer(model, messages, seeded, raw=raw, tools=tools))

    tasks = [asyncio.create_task(reply(messages, index)) for messages in prompts for index in range(n)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
