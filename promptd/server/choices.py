"""Several replies for one request: each in a conversation of its own, all in the engine's batch together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request

from promptd.chat import ChatOptions, Completion, Message
from promptd.server.conversations import Conversations
from promptd.server.replies import whole
from promptd.server.schemas import last_of_user


async def choices(
    request: Request,
    conversations: Conversations,
    model: str,
    prompts: Sequence[Sequence[Message]],
    options: ChatOptions,
    n: int = 1,
    *,
    raw: bool = False,
) -> list[Completion]:
    """Return `n` replies to each of `prompts`, in order; raises the first PromptdError, and cancels the others."""

    async def reply(messages: Sequence[Message], index: int) -> Completion:
        conversation = await conversations.open(model, only_message=last_of_user(messages), raw=raw)
        seeded = options if options.seed is None else replace(options, seed=(options.seed + index) % 2**32)
        try:
            turn = await conversation.start(messages, seeded, ended=lambda _: conversation.close())
        except BaseException:
            conversation.close()
            raise
        return await whole(request, turn)

    tasks = [asyncio.create_task(reply(messages, index)) for messages in prompts for index in range(n)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
