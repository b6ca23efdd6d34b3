"""Takes changed settings while the daemon runs, on SIGHUP or an admin's word: all of them, or none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter

from promptd.config import Settings
from promptd.errors import PromptdError, UnsupportedOperation
from promptd.wasm.host import Host

_AT_THE_NEXT_START = ("host", "port", "log", "preload")
"""What of `[server]` a running daemon cannot change."""

_log = logging.getLogger(__name__)


class Reload:
    """Gives a host new settings, and tells those who hold some of them. Belongs to one event loop."""

    def __init__(self, host: Host, read: Callable[[], Settings] | None = None) -> None:
        """`read` returns the settings as they are now, checked, or raises a PromptdError; it may take its time."""
        self._host = host
        self._read = read
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.listeners: list[Callable[[Settings], None]] = []
        """Called on the event loop with what is in force from then on."""

    async def now(self) -> list[str]:
        """Read the settings and take them; returns what has changed, in words.

        Raises the PromptdError that speaks against them, and then the old ones stay.
        """
        if self._read is None:
            raise UnsupportedOperation("this daemon was started without settings it could read again")
        async with self._lock:
            before = self._host.settings
            await asyncio.to_thread(self._host.update, await asyncio.to_thread(self._read))
            after = self._host.settings
            for tell in self.listeners:
                tell(after)
        found = changes(before, after)
        _log.info("settings reloaded: %s", "; ".join(found) or "nothing has changed")
        return found

    def begin(self) -> None:
        """Do so, and write to the log what came of it."""
        task = asyncio.create_task(self._logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _logged(self) -> None:
        try:
            await self.now()
        except PromptdError as error:
            _log.error("the settings are not reloaded, the old ones stay: %s", error)


def changes(before: Settings, after: Settings) -> list[str]:
    """Return what differs between two settings, a few words each."""
    keys = [{key.name: key for key in settings.server.keys} for settings in (before, after)]
    found = [
        *_differences("graph", before.graphs, after.graphs),
        *_differences("guest", before.guests, after.guests),
        *_differences("key", *keys),
    ]
    if before.engine.of_worker != after.engine.of_worker:
        found.append("[engine] changed, for models that are loaded from now on")
    elif before.engine != after.engine:
        found.append("[engine] weights or quotas changed")
    if before.uploads != after.uploads:
        found.append("[uploads] changed, which takes effect at the next start")
    for field in type(after.server).model_fields:
        if field != "keys" and getattr(before.server, field) != getattr(after.server, field):
            late = ", which takes effect at the next start" if field in _AT_THE_NEXT_START else ""
            found.append(f"server.{field.replace('_', '-')} changed{late}")
    return found


def _differences(kind: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    names = sorted(before.keys() | after.keys())
    words = {
        name: "added" if name not in before else "removed" if name not in after else "changed"
        for name in names
        if before.get(name) != after.get(name)
    }
    return [f"{kind} {name} {word}" for name, word in words.items()]


def reload_router(reload: Reload) -> APIRouter:
    """Return the route by which an admin asks for it."""
    router = APIRouter(tags=["operation"])

    @router.post("/v1/reload")
    async def reload_settings() -> dict[str, Any]:
        """Read promptd.toml again, as SIGHUP does; running sessions keep what they were opened with."""
        return {"object": "reload", "changes": await reload.now()}

    return router
