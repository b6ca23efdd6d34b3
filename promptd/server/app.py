"""The HTTP app: puts routes, doors and error handlers together over one `Host`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from promptd.config import Settings
from promptd.server import documents
from promptd.server.chat import chat_router
from promptd.server.completions import completions_router
from promptd.server.conversations import Conversations
from promptd.server.doors import CurlBodies, HostAllowList, Limits
from promptd.server.embeddings import embeddings_router
from promptd.server.errors import install_error_handlers
from promptd.server.guest_routes import guest_router
from promptd.server.keys import ANYONE, PASSER_BY, KeyDoor, KeyRing
from promptd.server.logs import LogRequests
from promptd.server.made_graphs import MadeGraphs
from promptd.server.metrics import CountRequests
from promptd.server.ollama import ollama_router
from promptd.server.ollama_create import ollama_create_router
from promptd.server.ollama_models import ollama_models_router
from promptd.server.operation import operation_router
from promptd.server.page_routes import page_router
from promptd.server.pull import pull_router
from promptd.server.reload import Reload, reload_router
from promptd.server.responses import responses_router
from promptd.server.session_routes import session_router
from promptd.server.session_socket import SocketOrigins, socket_router
from promptd.server.sessions import Sessions
from promptd.server.turn import Turns
from promptd.server.uploads import Uploads
from promptd.wasm.host import Host


def create_app(host: Host, turns: Turns, reload: Reload, *, names: Iterable[str] = (), local: bool = True) -> FastAPI:
    """Return the app over `host`, which the caller closes.

    `reload` changes the host's settings while the app runs. `names` are Host headers it answers to beside localhost and
    those of the settings; `local` says that only this machine can connect.
    """
    settings = host.settings.server
    conversations = Conversations(host, turns)
    sessions = Sessions(conversations, settings)
    keys = KeyRing(settings.keys, anonymous=ANYONE if local else PASSER_BY)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        preloading = asyncio.create_task(conversations.preload()) if settings.preload else None
        yield
        if preloading:
            preloading.cancel()
        sessions.close_all()
        await conversations.close()

    # The documentation pages load scripts from elsewhere; the document itself, /openapi.json, stays.
    app = FastAPI(
        title="promptd",
        version=version("promptd"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=documents.OPENAI_ERRORS,
    )
    install_error_handlers(app)
    app.user_middleware = _doors(host.settings, turns, keys, names)

    def update(new: Settings) -> None:
        keys.update(new.server.keys)
        conversations.update()
        sessions.update(new.server)
        app.user_middleware = _doors(new, turns, keys, names)
        app.middleware_stack = app.build_middleware_stack()  # requests under way keep the one they came through

    reload.listeners.append(update)
    app.include_router(chat_router(conversations))
    app.include_router(completions_router(conversations))
    app.include_router(responses_router(conversations))
    app.include_router(session_router(sessions))
    app.include_router(socket_router(sessions))
    app.include_router(guest_router(host, Uploads(host, host.settings.uploads)))
    app.include_router(ollama_router(conversations))
    app.include_router(ollama_models_router(host, conversations))
    app.include_router(ollama_create_router(MadeGraphs(host, host.settings.uploads)))
    app.include_router(embeddings_router(conversations, turns))
    app.include_router(pull_router(host))
    app.include_router(page_router())
    app.include_router(operation_router(host, conversations, sessions, turns.metrics))
    app.include_router(reload_router(reload))
    return app


def _doors(settings: Settings, turns: Turns, keys: KeyRing, names: Iterable[str]) -> list[Middleware]:
    """Return what a request passes before it reaches a route, in that order."""
    server = settings.server
    origins = Middleware(
        CORSMiddleware,
        allow_origins=server.origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "X-Api-Key"],
        expose_headers=["Retry-After", "X-Request-Id"],
    )
    return [
        Middleware(LogRequests),
        Middleware(HostAllowList, names=(*names, *server.hosts)),
        Middleware(CountRequests, metrics=turns.metrics),
        Middleware(SocketOrigins, origins=server.origins),
        *([origins] if server.origins else []),
        Middleware(KeyDoor, keys=keys),
        Middleware(CurlBodies),
        Middleware(Limits, limit=server.max_body, uploads={"/v1/guests": settings.uploads.max_size}),
    ]
