"""The routes an operator's tools ask: alive, ready, metrics, and the live view of the engines."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from promptd.errors import NotFound
from promptd.server.conversations import Conversations
from promptd.server.engines import EngineView, engine_body, look_at
from promptd.server.logs import RECENT_LINES, recent
from promptd.server.metrics import CONTENT_TYPE, Metrics
from promptd.server.sessions import Sessions
from promptd.suggestions import did_you_mean
from promptd.wasm.host import Host


def operation_router(host: Host, conversations: Conversations, sessions: Sessions, metrics: Metrics) -> APIRouter:
    """Return the routes beside the APIs."""
    router = APIRouter(tags=["operation"])

    async def engines() -> list[EngineView]:
        return await asyncio.to_thread(look_at, host)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the daemon is alive."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Response:
        """Say whether a prompt would be answered at once: 503 while models load, and while the daemon goes down."""
        status = conversations.status()
        return JSONResponse({"status": status}, 200 if status == "ready" else 503, {"Cache-Control": "no-store"})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def read_metrics() -> Response:
        """Return all counters in Prometheus' text format."""
        text = metrics.text(await engines(), sessions.count, conversations.guests)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    @router.get("/v1/engine")
    async def read_engines() -> dict[str, Any]:
        """Return what the engines of the loaded graphs are doing at this moment."""
        return {"object": "list", "sessions": sessions.count, "data": [engine_body(view) for view in await engines()]}

    @router.delete("/v1/engine/{graph}", status_code=204)
    async def unload_graph(graph: str) -> None:
        """Unload a graph; running replies end with an error, and the next prompt loads it again."""
        if not await asyncio.to_thread(host.unload_graph, graph):
            hint = did_you_mean(graph, host.loaded_graphs())
            raise NotFound(f"no graph {graph[:80]!r} is loaded{hint}")

    @router.get("/v1/logs")
    async def read_logs(lines: Annotated[int, Query(ge=1, le=RECENT_LINES)] = 100) -> dict[str, Any]:
        """Return the last lines of the log."""
        return {"object": "list", "data": recent.lines()[-lines:]}

    return router
