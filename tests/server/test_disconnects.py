"""Clients of every kind that leave at random moments: no sequence, guest or session is left behind."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE_S, Served, serving, wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from promptd.config import GraphSettings, GuestSettings, ServerSettings, Settings

SEED = 20261125
CLIENTS = 32
AT_ONCE = 8
QUESTION: Any = [{"role": "user", "content": "Are dogs real?"}]


@pytest.fixture(scope="module")
def left(smollm2: Path, built_guest: Callable[[str], Path]) -> Iterator[Served]:
    """Return a daemon whose replies are longer than anyone here waits."""
    chat = GraphSettings(
        model=f"file:{smollm2}",
        temperature=5,
        max_tokens=1500,
        context=2048,
        logit_bias={"0": -100, "2": -100, "4": -100},
    )
    guests = {"persona": GuestSettings(file=built_guest("persona"), graphs=("chat",))}
    server = ServerSettings(session_grace=0)
    with serving(Settings(graphs={"chat": chat}, guests=guests, server=server)) as running:
        yield running


def _leave(served: Served, path: str, body: Any, dice: random.Random) -> None:
    """Send all or a part of a request, read some bytes of the reply or none, and hang up one way or another."""
    content = json.dumps(body).encode()
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    head = f"Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    request = f"POST {path} HTTP/1.1\r\n{head}\r\n\r\n".encode() + content
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.sendall(request if dice.random() < 0.9 else request[: dice.randrange(len(request))])
        client.settimeout(dice.choice((0.01, 0.1, 0.5)))
        wanted = dice.choice((0, 1, 500, 3000))
        with suppress(TimeoutError):
            while wanted > 0 and (part := client.recv(wanted)):
                wanted -= len(part)
        if dice.random() < 0.5:  # a reset in place of an end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _leave_socket(served: Served, session: str, dice: random.Random) -> None:
    with connect(f"{served.url.replace('http', 'ws')}/v1/sessions/{session}/ws", proxy=None) as client:
        client.send(json.dumps({"type": "message", "content": "Are dogs real?"}))
        with suppress(TimeoutError, ConnectionClosed):
            for _ in range(dice.choice((0, 1, 10))):
                client.recv(timeout=1)
        if dice.random() < 0.3:
            client.send('{"type": "cancel"}')
        if dice.random() < 0.5:
            client.socket.shutdown(socket.SHUT_RDWR)


def _client(served: Served, number: int) -> None:
    dice = random.Random(SEED + number)
    model = dice.choice(("chat", "guest/persona"))
    stream = dice.random() < 0.7
    kind = dice.choice(("completion", "session", "socket"))
    if kind == "completion":
        _leave(served, "/v1/chat/completions", {"model": model, "messages": QUESTION, "stream": stream}, dice)
        return
    session = served.open(**({"graph": "chat"} if model == "chat" else {"guest": "persona"}))
    if kind == "session":
        body = {"content": "Are dogs real?", "stream": stream}
        _leave(served, f"/v1/sessions/{session}/messages", body, dice)
    else:
        _leave_socket(served, session, dice)


def test_clients_that_leave_at_random_moments_leave_nothing_behind(left: Served) -> None:
    with ThreadPoolExecutor(AT_ONCE) as clients:
        list(clients.map(_client, [left] * CLIENTS, range(CLIENTS)))
    wait_until(lambda: left.stats().running == 0 and left.stats().queue == 0)
    wait_until(lambda: not any(session["busy"] for session in _sessions(left)))
    for session in _sessions(left):
        left.http.delete(f"/v1/sessions/{session['id']}")
    wait_until(lambda: left.stats().sequences == 0)
    wait_until(lambda: "promptd_guest_instances 0.0" in left.http.get("/metrics").text)
    assert left.complete("chat", "Is anybody there?", max_tokens=3).status_code == 200
    assert left.stats().worker_starts == 1


def _sessions(served: Served) -> list[Any]:
    return list(served.http.get("/v1/sessions").json()["data"])
