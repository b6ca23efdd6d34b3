"""A look at the engines behind the graphs that are loaded: what `/v1/engine` and `/metrics` show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptd.backends.base import Graph
from promptd.backends.ggml import GgmlGraph
from promptd.engine import EngineInfo, EngineStats


@dataclass(frozen=True, slots=True)
class EngineView:
    """One engine at one moment, under the name of the first graph that uses it."""

    graph: str
    info: EngineInfo
    stats: EngineStats


def info_of(graph: Graph | None) -> EngineInfo | None:
    """Return what the model of `graph` is; None for one that no engine runs."""
    return graph.info if isinstance(graph, GgmlGraph) else None


def look_at(graphs: Mapping[str, Graph]) -> list[EngineView]:
    """Return a view of each engine behind `graphs`; waits for the step each is in."""
    views: dict[int | str, EngineView] = {}
    for name, graph in sorted(graphs.items()):
        if isinstance(graph, GgmlGraph):
            stats = graph.stats()
            views.setdefault(stats.worker_pid or name, EngineView(name, graph.info, stats))
    return list(views.values())


def engine_body(view: EngineView) -> dict[str, Any]:
    """Return a view as `/v1/engine` shows it."""
    info, stats = view.info, view.stats
    return {
        "graph": view.graph,
        "model": info.description,
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
            "drafted": stats.drafted_tokens,
            "accepted": stats.accepted_tokens,
        },
        "kv": {
            "cells": stats.kv_total,
            "used": stats.kv_used,
            "conversations": [
                {"id": held.conversation, "cells": held.cells, "running": held.running} for held in stats.holders
            ],
        },
        "memory": {"model": stats.model_bytes, "kv": stats.kv_bytes, "worker_resident": stats.rss},
    }
