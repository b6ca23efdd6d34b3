"""The HTTP app: puts routes, doors and error handlers together over one `Host`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from promptd.server.chat import chat_router
from promptd.server.conversations import Conversations
from promptd.server.doors import BodyLimit, HostAllowList
from promptd.server.errors import install_error_handlers
from promptd.server.session_routes import session_router
from promptd.server.sessions import Sessions
from promptd.server.turn import Turns
from promptd.wasm.host import Host


def create_app(host: Host, turns: Turns, *, names: Iterable[str] = ()) -> FastAPI:
    """Return the app over `host`, which the caller closes; `names` are Host headers it answers to beside localhost."""
    settings = host.settings.server
    conversations = Conversations(host, turns)
    sessions = Sessions(conversations, limit=settings.max_sessions, idle_s=settings.session_idle)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        sessions.close_all()
        await conversations.close()

    # The documentation pages load scripts from elsewhere; the document itself, /openapi.json, stays.
    app = FastAPI(title="promptd", version=version("promptd"), lifespan=lifespan, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(HostAllowList, names=names)
    app.include_router(chat_router(conversations))
    app.include_router(session_router(sessions))

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Say that the daemon is alive."""
        return {"status": "ok"}

    return app
