"""A look at the engines behind the graphs that are loaded: what `/v1/engine` and `/metrics` show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from promptd.backends.base import Graph
from promptd.backends.ggml import GgmlGraph
from promptd.engine.statistics import EngineInfo, EngineStats
from promptd.errors import PromptdError
from promptd.wasm.host import Host


@dataclass(frozen=True, slots=True)
class EngineView:
    """One engine at one moment, under the name of the first graph that uses it."""

    graph: str
    digest: str | None
    """SHA-256 of the model file; None for a file of the operator's, which nothing pins."""
    info: EngineInfo
    stats: EngineStats


def info_of(graph: Graph | None) -> EngineInfo | None:
    """Return what the model of `graph` is; None for one that no engine runs."""
    return graph.info if isinstance(graph, GgmlGraph) else None


def look_at(host: Host) -> list[EngineView]:
    """Return a view of each engine behind the loaded graphs; waits for the step each is in."""
    views: dict[int | str, EngineView] = {}
    for name, graph in sorted(host.loaded_graphs().items()):
        if isinstance(graph, GgmlGraph):
            stats = graph.stats()
            views.setdefault(stats.worker_pid or name, EngineView(name, _digest(host, name), graph.info, stats))
    return list(views.values())


def _digest(host: Host, name: str) -> str | None:
    settings = host.settings.graphs.get(name)
    try:
        digest = host.store.resolve(settings.model).digest if settings else None
    except PromptdError:  # it was removed since
        return None
    return None if digest is None else str(digest)


def engine_body(view: EngineView) -> dict[str, Any]:
    """Return a view as `/v1/engine` shows it."""
    info, stats = view.info, view.stats
    return {
        "graph": view.graph,
        "model": info.description,
        "digest": view.digest,
        "worker_pid": stats.worker_pid,
        "unload_seconds": stats.unload_seconds,
        "device": info.device,
        "threads": stats.threads,
        "thread_changes": stats.thread_changes,
        "context": info.context,
        "running": stats.running,
        "queue": stats.queue,
        "steps": stats.steps,
        "step_sequences": stats.batch_width_sum,
        "tokens": {
            "prompt": stats.prompt_tokens,
            "cached": stats.cached_tokens,
            "generated": stats.generated_tokens,
            "per_second": round(stats.tokens_per_second, 1),
            "drafted": stats.drafted_tokens,
            "accepted": stats.accepted_tokens,
        },
        "kv": {
            "cells": stats.kv_total,
            "used": stats.kv_used,
            "resident": stats.resident,
            "spilled": stats.saved,
            "conversations": [
                {"id": held.conversation, "cells": held.cells, "running": held.running} for held in stats.holders
            ],
        },
        "memory": {"model": stats.model_bytes, "kv": stats.kv_bytes, "worker_resident": stats.rss},
    }
