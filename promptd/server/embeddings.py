"""Embeddings over HTTP: OpenAI's `/v1/embeddings`, Ollama's `/api/embed`, and its older `/api/embeddings`.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field

from promptd.backends.base import Embedding, Embeds
from promptd.chat import Completion, StopReason, Usage
from promptd.errors import Busy, UnsupportedOperation
from promptd.server import documents
from promptd.server.body import Body, Many, Text
from promptd.server.conversations import Conversations
from promptd.server.errors import InvalidField
from promptd.server.keep_alive import KeepAlive, keep_alive
from promptd.server.keys import current_client
from promptd.server.turn import Turns

MAX_INPUTS = 2048
"""Most texts of one request, as OpenAI has it."""

THREADS = 4
"""Requests whose embeddings are made at once; one more waits."""

AT_ONCE = 32
"""Texts of one request that the engine is given together; between those it is seen whether the client has left."""

NonEmpty = Annotated[Text, Field(min_length=1)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1), Many]
Texts = Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_INPUTS), Many]
Inputs = NonEmpty | Texts | Tokens | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS), Many]


class EmbeddingsRequest(Body):
    """The body of `POST /v1/embeddings`."""

    model: Text
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Only as many as the model has: few models can do with less."""

    def inputs(self) -> list[str | list[int]]:
        """Return what embeddings are to be made of."""
        given: Any = self.input
        return [given] if isinstance(given, str) or isinstance(given[0], int) else given


class EmbedBody(Body):
    """The body of `POST /api/embed`."""

    model_config = ConfigDict(strict=False)

    model: Text
    input: Text | Annotated[list[Text], Field(max_length=MAX_INPUTS), Many] = ""
    truncate: bool = True
    """Take the beginning of a text that is too long."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    keep_alive: KeepAlive | None = None


class EmbeddingsBody(Body):
    """The body of `POST /api/embeddings`, Ollama's older route for one text."""

    model_config = ConfigDict(strict=False)

    model: Text
    prompt: Text = ""
    keep_alive: KeepAlive | None = None


def embeddings_router(conversations: Conversations, turns: Turns) -> APIRouter:
    """Return the routes of embeddings."""
    router = APIRouter()
    ollama = documents.OLLAMA_ERRORS
    threads = ThreadPoolExecutor(THREADS, "embedding")

    async def embed(
        request: Request,
        model: str,
        inputs: Sequence[str | list[int]],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
    ) -> list[Embedding]:
        graph = await conversations.graph(model)
        if not isinstance(graph, Embeds):
            raise UnsupportedOperation(f"the graph {model} makes no embeddings")
        made: list[Embedding] = []
        for start in range(0, len(inputs), AT_ONCE):
            if turns.draining:
                raise Busy("promptd is shutting down")
            if await request.is_disconnected():
                break
            call = partial(graph.embed, inputs[start : start + AT_ONCE], truncate=truncate)
            made += await asyncio.get_running_loop().run_in_executor(threads, call)
            if dimensions not in (None, len(made[0].vector)):
                raise InvalidField(
                    f"the model's embeddings have {len(made[0].vector)} dimensions, and cannot have {dimensions}",
                    "dimensions",
                )
        client = current_client()
        usage = Usage(prompt=sum(each.tokens for each in made), cached=0, generated=0)
        turns.metrics.turn_ended(model, client.name, Completion("", StopReason.END_OF_TURN, usage))
        client.charge(usage)
        return made

    @router.post("/v1/embeddings", tags=["openai"], responses=documents.answer(documents.EmbeddingList))
    async def create_embeddings(body: EmbeddingsRequest, request: Request) -> JSONResponse:
        """Return the embeddings of texts, or of tokens."""
        made = await embed(request, body.model, body.inputs(), dimensions=body.dimensions)
        encode = _base64 if body.encoding_format == "base64" else list
        tokens = sum(each.tokens for each in made)
        return JSONResponse(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": encode(each.vector)}
                    for index, each in enumerate(made)
                ],
                "model": body.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    @router.post("/api/embed", tags=["ollama"], responses=ollama | documents.answer(documents.OllamaEmbeddings))
    async def ollama_embed(body: EmbedBody, request: Request) -> JSONResponse:
        """Return the embeddings of texts; none loads the model."""
        began = time.perf_counter_ns()
        texts = ([body.input] if body.input else []) if isinstance(body.input, str) else body.input
        model = body.model.removesuffix(":latest")
        made = await embed(request, model, texts, truncate=body.truncate, dimensions=body.dimensions)
        keep_alive(conversations, model, body.keep_alive)
        return JSONResponse(
            {
                "model": body.model,
                "embeddings": [list(each.vector) for each in made],
                "total_duration": time.perf_counter_ns() - began,
                "load_duration": 0,
                "prompt_eval_count": sum(each.tokens for each in made),
            }
        )

    @router.post("/api/embeddings", tags=["ollama"], responses=ollama | documents.answer(documents.OllamaEmbedding))
    async def ollama_embeddings(body: EmbeddingsBody, request: Request) -> dict[str, Any]:
        """Return the embedding of one text."""
        texts = [body.prompt] if body.prompt else []
        model = body.model.removesuffix(":latest")
        made = await embed(request, model, texts, truncate=True)
        keep_alive(conversations, model, body.keep_alive)
        return {"embedding": list(made[0].vector) if made else []}

    return router


def _base64(vector: array[float]) -> str:
    """Return 32-bit floats, little-endian, in base64."""
    copy = array("f", vector)
    if sys.byteorder == "big":
        copy.byteswap()
    return base64.b64encode(copy.tobytes()).decode("ascii")
