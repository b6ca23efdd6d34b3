"""Ollama's routes that change which models there are: create, copy and delete. Only keys with the scope `admin` may.

https://github.com/ollama/ollama/blob/main/docs/api.md#create-a-model
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field

from promptd.server import documents
from promptd.server.body import Body, Text
from promptd.server.errors import InvalidField
from promptd.server.made_graphs import MadeGraphs

_PARAMETERS = {
    "num_ctx": "context",
    "num_predict": "max_tokens",
    "repeat_last_n": "penalty_last_n",
    **{
        name: name
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
            "mirostat",
            "mirostat_tau",
            "mirostat_eta",
            "seed",
            "stop",
        )
    },
}
"""Ollama's names of parameters, and those of a graph's settings."""


class DeleteBody(Body):
    """The body of `DELETE /api/delete`; older clients say `name`."""

    model: Text = ""
    name: Text = ""


class CopyBody(Body):
    """The body of `POST /api/copy`."""

    source: Text
    destination: Text


class CreateBody(Body):
    """The body of `POST /api/create`: a graph from one that is there, or from a model that was pulled."""

    model_config = ConfigDict(strict=False)

    model: Text = ""
    name: Text = ""
    source: Text = Field("", alias="from")
    system: Text | None = None
    parameters: dict[Text, Any] | None = None
    stream: bool = True
    template: Any = None
    """This and what follows is refused, but for the licence, which changes nothing."""
    messages: Any = None
    files: Any = None
    adapters: Any = None
    quantize: Any = None
    modelfile: Any = None

    def options(self) -> dict[str, Any]:
        """Return the settings the graph has of its own; raises InvalidField for what promptd cannot do."""
        for name, instead in (
            ("modelfile", "send from, system and parameters"),
            ("template", "a model answers by the chat template in its own file"),
            ("messages", "send them with each request"),
            ("files", "pull the model, and name it in from"),
            ("adapters", "set lora in promptd.toml"),
            ("quantize", "pull a model that is quantised so"),
        ):
            if getattr(self, name):
                raise InvalidField(f"promptd takes no {name} here: {instead}", name)
        if not self.source:
            raise InvalidField("from has to name a graph, or a model that was pulled", "from")
        options: dict[str, Any] = {} if self.system is None else {"system": self.system}
        for name, value in (self.parameters or {}).items():
            if name not in _PARAMETERS:
                known = ", ".join(_PARAMETERS)
                raise InvalidField(f"parameters: {name[:40]!r} is none that promptd knows; {known} are", "parameters")
            options[_PARAMETERS[name]] = value
        if isinstance(limit := options.get("max_tokens"), int) and limit < 0:
            options["max_tokens"] = None  # Ollama's "no limit"
        return options


def ollama_create_router(made: MadeGraphs) -> APIRouter:
    """Return the routes under `/api` that change which models there are."""
    router = APIRouter(prefix="/api", tags=["ollama"], responses=documents.OLLAMA_ERRORS)

    @router.post("/create", responses=documents.answer(documents.PullLine, "application/x-ndjson"))
    async def create(body: CreateBody) -> Response:
        """Make a graph of another, or of a pulled model, with a system message and parameters of its own."""
        options = body.options()
        await asyncio.to_thread(made.make, _name(body.model or body.name), _name(body.source), options)
        done = {"status": "success"}
        return (
            Response(json.dumps(done) + "\n", media_type="application/x-ndjson") if body.stream else JSONResponse(done)
        )

    @router.post("/copy", response_class=Response)
    async def copy(body: CopyBody) -> Response:
        """Make a graph that is as another, or of a pulled model."""
        await asyncio.to_thread(made.make, _name(body.destination), _name(body.source), {})
        return Response()

    @router.delete("/delete", response_class=Response)
    async def delete(body: DeleteBody) -> Response:
        """Delete a graph that was made, or a pulled model that no graph has."""
        await asyncio.to_thread(made.delete, _name(body.model or body.name))
        return Response()

    return router


def _name(model: str) -> str:
    return model.removesuffix(":latest")
