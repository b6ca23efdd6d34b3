"""What the daemon counts, for `/metrics` in Prometheus' text format: requests, turns, tokens, guests, engines.

Engines are read when somebody asks; all else is counted as it happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptd.chat import Completion
from promptd.errors import PromptdError, TooLarge, code_of
from promptd.server.engines import EngineView
from promptd.wasm.traps import GuestCallLimit, GuestDeadline, GuestOutputLimit, GuestStopped, GuestTrap

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_GUEST_START_S = (0.00005, 0.0001, 0.001, 0.01, 0.1, 1, 10, 60)

_GAUGES: dict[str, tuple[str, Callable[[EngineView], float]]] = {
    "queue": ("Prompts that wait for a place in the batch.", lambda view: view.stats.queue),
    "batch_width": ("Replies that are being made together.", lambda view: view.stats.running),
    "threads": ("Threads that compute a step.", lambda view: view.stats.threads),
    "conversations": ("Conversations open.", lambda view: view.stats.sequences),
    "conversations_resident": ("Conversations that hold KV cells.", lambda view: view.stats.resident),
    "kv_cells_used": ("KV cells that hold a token.", lambda view: view.stats.kv_used),
    "kv_cells": ("KV cells there are.", lambda view: view.stats.kv_total),
}
_COUNTERS: dict[str, tuple[str, Callable[[EngineView], float]]] = {
    "prompt_tokens": ("Prompt tokens decoded.", lambda view: view.stats.prompt_tokens),
    "cached_tokens": ("Prompt tokens taken from the KV cache.", lambda view: view.stats.cached_tokens),
    "generated_tokens": ("Tokens generated.", lambda view: view.stats.generated_tokens),
    "drafted_tokens": ("Tokens guessed and verified.", lambda view: view.stats.drafted_tokens),
    "accepted_tokens": ("Guessed tokens that held.", lambda view: view.stats.accepted_tokens),
    "steps": ("Calls of llama_decode.", lambda view: view.stats.steps),
    "step_sequences": ("Sequences in all steps together.", lambda view: view.stats.batch_width_sum),
    "thread_changes": ("Changes of the number of threads.", lambda view: view.stats.thread_changes),
    "evictions": ("Conversations that lost their KV cells to others.", lambda view: view.stats.evictions),
    "preemptions": ("Replies that were put back in the queue.", lambda view: view.stats.preemptions),
    "spills": ("Conversations whose KV cells were saved outside of the cache.", lambda view: view.stats.spilled),
    "restores": ("Conversations whose saved KV cells were put back.", lambda view: view.stats.restored),
    "worker_starts": ("Starts of the worker process.", lambda view: view.stats.worker_starts),
}
_MEMORY: dict[str, Callable[[EngineView], float]] = {
    "model": lambda view: view.stats.model_bytes,
    "kv": lambda view: view.stats.kv_bytes,
    "kv_spilled_memory": lambda view: view.stats.spill_memory,
    "kv_spilled_disk": lambda view: view.stats.spill_disk,
    "worker_resident": lambda view: view.stats.rss,
}


class Metrics:
    """The daemon's counters."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "promptd_requests", "HTTP requests by route and status.", ("method", "route", "status"), registry=registry
        )
        self._turns = Counter(
            "promptd_turns", "Replies, by how they ended.", ("model", "client", "outcome"), registry=registry
        )
        self._tokens = Counter(
            "promptd_tokens",
            "Tokens of replies: prompt (all before the reply), cached (of those, not decoded again), generated.",
            ("model", "client", "kind"),
            registry=registry,
        )
        self.first_token = Histogram(
            "promptd_time_to_first_token_seconds",
            "From the turn's start to the first piece of its reply.",
            ("model",),
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.between_tokens = Histogram(
            "promptd_inter_token_seconds",
            "Between two pieces of one reply.",
            ("model",),
            buckets=_BETWEEN_TOKENS_S,
            registry=registry,
        )
        self.guest_start = Histogram(
            "promptd_guest_start_seconds",
            "Starts of guest instances; the first of each guest compiles it.",
            ("guest",),
            buckets=_GUEST_START_S,
            registry=registry,
        )
        self._guest_failures = Counter(
            "promptd_guest_failures",
            "Turns that a guest failed: trap, deadline, output or another limit, stopped, or its own error.",
            ("guest", "kind"),
            registry=registry,
        )

    def turn_ended(self, model: str, client: str, outcome: Completion | PromptdError) -> None:
        """Count one reply, and its tokens."""
        ended = outcome.stop_reason.value if isinstance(outcome, Completion) else code_of(outcome).name
        self._turns.labels(model, client, ended).inc()
        if isinstance(outcome, Completion):
            usage = outcome.usage
            for kind, count in (("prompt", usage.prompt), ("cached", usage.cached), ("generated", usage.generated)):
                self._tokens.labels(model, client, kind).inc(count)

    def guest_failed(self, guest: str, error: PromptdError) -> None:
        """Count one turn that a guest failed."""
        self._guest_failures.labels(guest, _failure_kind(error)).inc()

    def text(self, engines: Iterable[EngineView], sessions: int, guests: int) -> bytes:
        """Return everything in Prometheus' text format."""
        now = CollectorRegistry()
        now.register(_Now(list(engines), {"sessions": sessions, "guest_instances": guests}))
        return generate_latest(self._registry) + generate_latest(now)


class _Now(Collector):
    """What is read at the moment somebody asks."""

    def __init__(self, engines: list[EngineView], gauges: dict[str, int]) -> None:
        self._engines = engines
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"promptd_{name}", f"Open {name.replace('_', ' ')}.", value)
        kinds: tuple[tuple[dict[str, tuple[str, Callable[[EngineView], float]]], type[Metric]], ...] = (
            (_GAUGES, GaugeMetricFamily),
            (_COUNTERS, CounterMetricFamily),
        )
        for table, family in kinds:
            for name, (about, read) in table.items():
                metric = family(f"promptd_engine_{name}", about, labels=("graph",))  # type: ignore[call-arg]
                for view in self._engines:
                    metric.add_metric((view.graph,), read(view))  # type: ignore[attr-defined]
                yield metric
        memory = GaugeMetricFamily("promptd_memory_bytes", "Memory of a model, by kind.", labels=("graph", "kind"))
        for view in self._engines:
            for kind, read in _MEMORY.items():
                memory.add_metric((view.graph, kind), read(view))
        yield memory


class Stopwatch:
    """Times the pieces of one reply."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._last = time.perf_counter()
        self._first = True

    def piece(self) -> None:
        """Note that a piece has come."""
        now = time.perf_counter()
        histogram = self._metrics.first_token if self._first else self._metrics.between_tokens
        histogram.labels(self._model).observe(now - self._last)
        self._last, self._first = now, False


class CountRequests:
    """Counts the requests that pass, by the path of their route, so that no client can make up labels.

    A WebSocket counts as the GET it begins with, once that is answered: with 101 where the connection is taken.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        counted = False

        def count(status: int) -> None:
            nonlocal counted
            if not counted:
                counted = True
                method = scope.get("method", "GET")
                method = method if method in ("GET", "POST", "DELETE", "OPTIONS", "HEAD") else "other"
                self._metrics.requests.labels(method, route_of(scope), str(status)).inc()

        async def counting(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                count(message["status"])
            elif message["type"] == "websocket.accept":
                count(101)
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            count(499)  # what nginx writes down for a client that left before the reply


def route_of(scope: Scope) -> str:
    """Return the path of the route that answers a request, with its parameters' names; "none" where there is none."""
    route = scope.get("route")
    return str(getattr(route, "path", "none"))


def _failure_kind(error: PromptdError) -> str:
    for kind, name in (
        (GuestDeadline, "deadline"),
        (GuestOutputLimit, "output"),
        (GuestCallLimit, "call"),
        (GuestStopped, "stopped"),
        (GuestTrap, "trap"),
        (TooLarge, "limit"),
    ):
        if isinstance(error, kind):
            return name
    return "error"
