"""Ollama's routes that tell of models: those that are served, those that are loaded, and one in detail.

https://github.com/ollama/ollama/blob/main/docs/api.md#list-local-models
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from promptd.backends.ggml import GgmlGraph
from promptd.errors import PromptdError
from promptd.graphs.gguf import GgufInfo, read_gguf
from promptd.graphs.manifest import StoredModel
from promptd.server import documents
from promptd.server.body import Body, Text
from promptd.server.conversations import Conversations
from promptd.server.engines import info_of
from promptd.server.errors import UnknownModel
from promptd.wasm.host import Host

_NEVER = "9999-12-31T23:59:59Z"
_KNOWN_FILES = 256


class ModelBody(Body):
    """The body of `POST /api/show`; older clients say `name`."""

    model: Text = ""
    name: Text = ""


def ollama_models_router(host: Host, conversations: Conversations) -> APIRouter:
    """Return the routes under `/api` that tell of models."""
    router = APIRouter(prefix="/api", tags=["ollama"], responses=documents.OLLAMA_ERRORS)
    started = datetime.now(UTC)

    async def listed(*names: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(lambda: [_summary(host, name, started) for name in names])

    @router.get("/tags", responses=documents.answer(documents.OllamaModels))
    async def tags() -> dict[str, Any]:
        """List the graphs, and the guests as `guest/NAME`."""
        return {"models": await listed(*conversations.models())}

    @router.get("/ps", responses=documents.answer(documents.OllamaModels))
    async def ps() -> dict[str, Any]:
        """List the graphs whose models are loaded, and until when they are if nobody uses them."""
        return {"models": await asyncio.to_thread(_running, host, started)}

    @router.post("/show", responses=documents.answer(documents.OllamaShown))
    async def show(body: ModelBody) -> dict[str, Any]:
        """Describe one model."""
        name = (body.model or body.name).removesuffix(":latest")
        if name not in conversations.models():
            raise UnknownModel(name)
        return await asyncio.to_thread(_shown, host, name, started)

    return router


def _running(host: Host, started: datetime) -> list[dict[str, Any]]:
    models = []
    for name, graph in sorted(host.loaded_graphs().items()):
        expires = _NEVER
        if isinstance(graph, GgmlGraph):
            stats = graph.stats()
            if stats.worker_pid is None:
                continue
            if stats.unload_seconds is not None:
                expires = _time(datetime.now(UTC) + timedelta(seconds=stats.unload_seconds))
        models.append(_summary(host, name, started) | {"expires_at": expires})
    return models


def _shown(host: Host, name: str, started: datetime) -> dict[str, Any]:
    info = _gguf(_stored(host, name))
    template = (info.chat_template if info else None) or ""
    about: dict[str, Any] = {}
    if info:
        about = {
            "general.architecture": info.architecture,
            "general.parameter_count": info.parameters,
            f"{info.architecture}.context_length": info.context_length,
            f"{info.architecture}.embedding_length": info.embedding_length,
        }
    loaded = info_of(host.loaded_graphs().get(name))
    takes_tools = loaded.takes_tools if loaded else "tools" in template
    return {
        **_summary(host, name, started),
        "model_info": about,
        "template": template,
        "capabilities": ["completion", "tools"] if takes_tools else ["completion"],
        "parameters": "",
        "modelfile": "",
    }


def _summary(host: Host, name: str, started: datetime) -> dict[str, Any]:
    stored = _stored(host, name)
    info = _gguf(stored)
    details = {
        "parent_model": "",
        "format": "gguf" if info else "",
        "family": info.architecture if info else "",
        "families": [info.architecture] if info else [],
        "parameter_size": f"{info.parameters / 1e6:.0f}M" if info else "",
        "quantization_level": (info.quantisation if info else None) or "",
    }
    loaded = info_of(host.loaded_graphs().get(name))
    return {
        "name": name,
        "model": name,
        "modified_at": _time(stored.modified if stored else started),
        "size": stored.size if stored else 0,
        "size_vram": 0,
        "digest": stored.digest.hex if stored and stored.digest else "",
        "details": details,
        **({"context_length": loaded.context} if loaded else {}),
    }


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _stored(host: Host, name: str) -> StoredModel | None:
    """Return the file of a graph's model; None for guests, the echo graph, and what is not on this machine."""
    settings = host.settings.graphs.get(name)
    try:
        return host.store.resolve(settings.model) if settings else None
    except PromptdError:
        return None


def _gguf(stored: StoredModel | None) -> GgufInfo | None:
    """Return what a GGUF file says of itself; None for any other."""
    return None if stored is None else _read(stored.path, stored.size, stored.modified)


@lru_cache(_KNOWN_FILES)
def _read(path: Path, size: int, modified: datetime) -> GgufInfo | None:
    try:
        return read_gguf(path)
    except PromptdError:
        return None
