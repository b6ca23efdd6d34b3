"""Clients without a session: completions by graphs and guests, embeddings, and those who leave amid a reply."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from soaking.seen import Seen

PAUSE_S = 0.3
"""Between two requests of one client."""
LONG_PAUSE_S = 5.0
"""The same where a request takes seconds of processor time: all checks of the conformance suite in one guest."""


@dataclass(frozen=True)
class Request:
    """What one client asks for over and over, and what is right about the answer."""

    name: str
    path: str
    body: Mapping[str, Any]
    right: Callable[[Any], bool]
    pause_s: float = PAUSE_S


def _chat(name: str, model: str, right: Callable[[str], bool], pause_s: float = PAUSE_S) -> Request:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    return Request(
        name, "/v1/chat/completions", body, lambda reply: right(reply["choices"][0]["message"]["content"]), pause_s
    )


def _passes(tap: str) -> bool:
    return "\nok " in f"\n{tap}" and "not ok" not in tap and "Bail out" not in tap


TEXTS = ["a cat", "a dog and a cat", "a house by the sea"]
REQUESTS = (
    _chat("completions", "chat", bool),
    _chat("guests on an echo's tensors", "guest/tensors", _passes, LONG_PAUSE_S),
    _chat("core guests on an echo's tensors", "guest/core-tensors", _passes, LONG_PAUSE_S),
    _chat("guests on an ONNX model", "guest/filetype", lambda said: ": markdown (" in said),
    Request(
        "embeddings",
        "/v1/embeddings",
        {"model": "chat", "input": TEXTS},
        lambda reply: len(reply["data"]) == len(TEXTS),
    ),
)


async def ask(http: httpx2.AsyncClient, request: Request, seen: Seen) -> None:
    """Ask until the shift ends; refusals are counted, and wrong answers are losses."""
    while seen.on:
        await seen.may_ask()
        response = await http.post(request.path, json=request.body)
        if response.status_code != 200:
            seen.count(f"{request.name} refused")
            await seen.pause(float(response.headers.get("Retry-After", 1)))
            continue
        seen.count(request.name)
        if not request.right(response.json()):
            seen.losses.append(f"{request.name}: {response.text}")
        await seen.pause(request.pause_s)


async def leave(http: httpx2.AsyncClient, seen: Seen) -> None:
    """Begin long replies and hang up after their first bytes."""
    chance = random.Random(2026)
    while seen.on:
        await seen.may_ask()
        body = {
            "model": chance.choice(("chat", "guest/persona")),
            "messages": [{"role": "user", "content": "Tell a story."}],
            "stream": True,
        }
        with suppress(httpx2.HTTPError):
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _ in response.aiter_bytes():
                    break
        seen.count("clients that left")
        await seen.pause(chance.uniform(0, 2 * PAUSE_S))
