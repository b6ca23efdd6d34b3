"""Runs the real daemon on a loopback port, in this process, for the tests of its HTTP surface."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from openai import OpenAI
from waiting import PATIENCE_S
from waiting import wait_until as wait_until

from promptd.backends.ggml import GgmlGraph
from promptd.backends.graphs import Graphs
from promptd.config import Settings
from promptd.engine.statistics import EngineStats
from promptd.graphs.store import Store
from promptd.server.daemon import Daemon, listen
from promptd.wasm.host import Host


@dataclass(frozen=True)
class Served:
    """A running daemon."""

    host: Host
    url: str
    http: httpx2.Client
    openai: OpenAI

    def complete(self, model: str, content: str, **fields: Any) -> httpx2.Response:
        """POST a chat completion of one user message."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def open(self, **target: str) -> str:
        """Open a session with guest=NAME or graph=NAME, and return its id."""
        response = self.http.post("/v1/sessions", json=target)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def say(self, session: str, content: str) -> httpx2.Response:
        """Send a message and wait for the whole reply."""
        return self.http.post(f"/v1/sessions/{session}/messages", json={"content": content, "stream": False})

    @contextmanager
    def streaming(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[tuple[str, Any]]]:
        """POST and yield the events of the stream as (event, data); leaving the block hangs up."""
        with self.http.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            yield _events(response)

    def stats(self) -> EngineStats:
        """Return the counters of the engine behind the graph `chat`."""
        graph = self.host.graph("chat")
        assert isinstance(graph, GgmlGraph)
        return graph.stats()


@contextmanager
def serving(
    settings: Settings, read_settings: Callable[[], Settings] | None = None, *, store: Store | None = None
) -> Iterator[Served]:
    """Serve `settings` on a free port until the block ends, with the models of `store`."""
    ready: queue.Queue[str] = queue.Queue()
    graphs = Graphs(settings, store or Store())
    with listen("127.0.0.1", 0) as listener, closing(Host(settings, graphs=graphs)) as host:
        daemon = Daemon(host, listener, announce=ready.put, read_settings=read_settings)
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            url = ready.get(timeout=PATIENCE_S).removeprefix("promptd is listening on ")
            with (
                httpx2.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as http,
                OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as openai,
            ):
                yield Served(host, url, http, openai)
        finally:
            daemon.stop()
            thread.join()


def _events(response: httpx2.Response) -> Iterator[tuple[str, Any]]:
    event = "message"
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            event = value
        elif field == "data":
            yield event, value if value == "[DONE]" else json.loads(value)
            event = "message"
