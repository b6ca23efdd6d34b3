"""Ollama's `POST /api/pull`: gets a model, and says how far it is, line by line. Only keys with the scope `admin` may.

https://github.com/ollama/ollama/blob/main/docs/api.md#pull-a-model
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict
from starlette.responses import StreamingResponse

from promptd.errors import InvalidArgument, PromptdError
from promptd.graphs.digest import Digest
from promptd.graphs.manifest import StoredModel
from promptd.graphs.reference import EchoReference, FileReference, Reference, parse_reference
from promptd.server import documents
from promptd.server.body import Body, Text
from promptd.server.errors import as_promptd_error
from promptd.wasm.host import Host

PULLS = 4
"""How many models are pulled at once; one more waits."""

LINE_S = 0.1
"""A line about the same file comes no sooner than this after the one before."""

Line = dict[str, Any]


class PullBody(Body):
    """The body of `POST /api/pull`; older clients say `name`."""

    model_config = ConfigDict(strict=False)

    model: Text = ""
    name: Text = ""
    stream: bool = True


class _Left(BaseException):
    """Ends the pull of a client that has left. No Exception, so that no source is tried in place of the one at work."""


class Pull:
    """One pull on its way to one client, told of by the store on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line | PromptdError | None] = asyncio.Queue()
        self._left = False
        self._line: Line = {}
        self._spoke = 0.0

    def run(self, pull: Callable[[Pull], StoredModel]) -> None:
        """Do the work, on a thread."""
        try:
            self._put({"status": "pulling manifest"})
            pulled = pull(self)
            self._put({"status": f"verified {pulled.digest}"})
            self._put({"status": "success"})
            self._put(None)
        except _Left:
            pass
        except BaseException as error:
            self._put(as_promptd_error(error))

    def start(self, task: str, total: int | None, done: int = 0, digest: Digest | None = None) -> None:
        """Take from the store what it begins."""
        self._check()
        self._line = {"status": task, "completed": done}
        if total is not None:
            self._line["total"] = total
        if digest is not None:
            self._line["digest"] = f"sha256:{str(digest).removeprefix('sha256:')}"
        self._put(dict(self._line))
        self._spoke = time.monotonic()

    def advance(self, amount: int) -> None:
        """Take from the store how far it is."""
        self._check()
        self._line["completed"] = self._line.get("completed", 0) + amount
        now = time.monotonic()
        if now - self._spoke >= LINE_S or self._line["completed"] == self._line.get("total"):
            self._spoke = now
            self._put(dict(self._line))

    def note(self, sentence: str) -> None:
        """Take from the store what is worth a line of its own."""
        self._check()
        self._put({"status": sentence})

    async def lines(self) -> AsyncIterator[Line]:
        """Yield what happens; raises the PromptdError that ended the pull."""
        while (line := await self._lines.get()) is not None:
            if isinstance(line, PromptdError):
                raise line
            yield line

    def leave(self) -> None:
        """End the pull soon; what was received is kept for the next."""
        self._left = True

    def _check(self) -> None:
        if self._left:
            raise _Left

    def _put(self, line: Line | PromptdError | None) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: the daemon has gone down, nobody listens.
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)


def pull_router(host: Host) -> APIRouter:
    """Return the route that pulls models."""
    router = APIRouter(prefix="/api", tags=["ollama"], responses=documents.OLLAMA_ERRORS)
    threads = ThreadPoolExecutor(PULLS, "pull")

    @router.post("/pull", responses=documents.answer(documents.PullLine, "application/x-ndjson"))
    async def pull(body: PullBody, request: Request) -> Response:
        """Get a model of the catalog or the hub, or that of a graph; needs a key with the scope `admin`."""
        reference = _reference(host, (body.model or body.name).removesuffix(":latest"))
        at_work = Pull()
        threads.submit(at_work.run, lambda progress: host.store.pull(reference, progress))
        lines = at_work.lines()
        first = await anext(lines)  # always there at once; what follows may take hours
        if body.stream:
            return StreamingResponse(_encoded(at_work, first, lines), media_type="application/x-ndjson")
        last = await _last(request, at_work, lines)
        return JSONResponse(last)

    return router


def _reference(host: Host, name: str) -> Reference:
    graph = host.settings.graphs.get(name)
    reference = parse_reference(graph.model if graph else name)
    if isinstance(reference, EchoReference | FileReference):
        raise InvalidArgument(f"there is nothing to pull for {name}: its model is not one of the catalog or the hub")
    return reference


async def _last(request: Request, at_work: Pull, lines: AsyncIterator[Line]) -> Line:
    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        at_work.leave()

    watcher = asyncio.create_task(watch())
    try:
        return [line async for line in lines][-1]
    finally:
        watcher.cancel()


async def _encoded(at_work: Pull, first: Line, lines: AsyncIterator[Line]) -> AsyncIterator[bytes]:
    try:
        yield _line(first)
        async for line in lines:
            yield _line(line)
    except PromptdError as error:
        yield _line({"error": str(error)})
    finally:
        at_work.leave()


def _line(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
