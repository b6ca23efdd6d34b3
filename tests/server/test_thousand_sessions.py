"""1,000 open sessions of all kinds, of which 50 are talked to at a time."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from serving import PATIENCE_S, Served, serving, wait_until

from promptd.config import GraphSettings, GuestSettings, ServerSettings, Settings

SESSIONS = 1000
ACTIVE = 50

KINDS: tuple[tuple[dict[str, str], Callable[[str], str]], ...] = (
    ({"graph": "echo"}, lambda text: text),
    ({"guest": "handler"}, lambda text: f"1/1 {text}"),
    ({"guest": "lines"}, lambda text: f"said: {text}"),
)
"""What a session is opened with, and its reply to the first message."""


class Clients(threading.local):
    """One connection for each thread."""

    def __init__(self, served: Served) -> None:
        self._connection = HTTPConnection(served.url.removeprefix("http://"), timeout=PATIENCE_S)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self._connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None


def test_a_thousand_sessions_answer_and_leave_nothing_behind(guest_files: dict[str, Path]) -> None:
    guests = {name: GuestSettings(file=guest_files[name]) for name in ("handler", "lines")}
    settings = Settings(
        graphs={"echo": GraphSettings(model="echo")}, guests=guests, server=ServerSettings(max_sessions=SESSIONS)
    )
    with serving(settings) as served, ThreadPoolExecutor(ACTIVE) as active:
        clients = Clients(served)

        def open_one(number: int) -> str:
            status, session = clients.ask("POST", "/v1/sessions", KINDS[number % len(KINDS)][0])
            assert status == 201, session
            return str(session["id"])

        def talk(number: int, session: str) -> None:
            text = f"message {number}"
            body = {"content": text, "stream": False}
            status, reply = clients.ask("POST", f"/v1/sessions/{session}/messages", body)
            assert (status, reply["content"]) == (200, KINDS[number % len(KINDS)][1](text))

        def close(session: str) -> None:
            assert clients.ask("DELETE", f"/v1/sessions/{session}")[0] == 204

        before, blocked, others = _pipes(), _threads_of_wasmtime(), _waiting()
        sessions = list(active.map(open_one, range(SESSIONS)))
        assert clients.ask("POST", "/v1/sessions", {"graph": "echo"})[0] == 503
        list(active.map(talk, range(SESSIONS), sessions))
        assert _waiting() == others + len(range(2, SESSIONS, 3)), "each command waits for its next line"
        assert _threads_of_wasmtime() < blocked + 64, "it has no more than 512 for what blocks"
        list(active.map(close, sessions))
        wait_until(lambda: _waiting() <= others)
        wait_until(lambda: _pipes() <= before)
        assert clients.ask("GET", "/v1/sessions")[1]["data"] == []


def _pipes() -> int:
    """Return how many pipes this process has open: connections come and go, these are the guests'."""
    kinds = []
    for descriptor in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # of the folder that was listed
            kinds.append(str(descriptor.readlink()).partition(":")[0])
    return kinds.count("pipe")


def _threads_of_wasmtime() -> int:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # of a thread that has ended
            names.append((task / "comm").read_text().strip())
    return names.count("tokio-rt-worker")


def _waiting() -> int:
    """Return how many guests of the kind `lines` hold a thread."""
    return sum(thread.name == "guest-lines" for thread in threading.enumerate())
