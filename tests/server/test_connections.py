"""What a connection keeps of its requests: nothing once they are answered, and nothing of itself once it is closed."""

from __future__ import annotations

import gc
import socket
import struct
from typing import TypeVar

import httpx2
from serving import PATIENCE_S, Served
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from promptd.server.connections import Connection

T = TypeVar("T")

REQUESTS = 40


def test_a_connection_keeps_no_request_that_was_answered(served: Served) -> None:
    before = _alive(RequestResponseCycle)
    with httpx2.Client(base_url=served.url, timeout=PATIENCE_S, trust_env=False) as client:
        for _ in range(REQUESTS):
            assert client.get("/healthz").status_code == 200
        assert _alive(RequestResponseCycle) - before < REQUESTS / 4


def test_no_timer_keeps_a_connection_that_was_reset(served: Served) -> None:
    host, _, port = served.url.removeprefix("http://").rpartition(":")
    for _ in range(REQUESTS):
        with socket.create_connection((host, int(port)), PATIENCE_S) as client:
            client.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with httpx2.Client(base_url=served.url, timeout=PATIENCE_S, trust_env=False) as client:
        assert client.get("/healthz").status_code == 200  # by now the daemon has seen the resets
        closed = [connection for connection in _of_kind(Connection) if connection not in connection.connections]
        assert not any(connection.timeout_keep_alive_task for connection in closed)


def _alive(kind: type[object]) -> int:
    gc.collect()
    return len(_of_kind(kind))


def _of_kind(kind: type[T]) -> list[T]:
    return [thing for thing in gc.get_objects() if type(thing) is kind]
