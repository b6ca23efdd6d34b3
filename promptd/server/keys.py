"""API keys: who a request comes from, what that client may do, and how much of it in a minute."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from promptd.chat import Usage
from promptd.config import KeySettings
from promptd.server.errors import InvalidKey, RateLimited, ScopeMissing, error_response

KEY_PREFIX = "pd-"
"""Opens every key, so that scanners of leaked secrets can find them."""

_KEY_BYTES = 24
_MINUTE_S = 60.0

OWN_USER = "own_user"
"""Set in the state of connections that came through the control socket."""

SOCKET_PROTOCOL = "promptd"
"""The subprotocol that WebSockets of sessions speak, where their client offers any."""

KEY_PROTOCOL = "promptd.key."
"""Opens a subprotocol that is a key: browsers let a page set no other header of a WebSocket, and URLs get written down.
OpenAI's realtime API has the same way, as `openai-insecure-api-key.KEY`.
"""

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
"""What is answered without a key: nothing in it tells what is served."""

ADMIN_PATHS = frozenset({
    "/metrics",
    "/v1/logs",
    "/v1/reload",
    "/api/pull",
    "/api/create",
    "/api/copy",
    "/api/delete",
})  # fmt: skip
"""What only keys with the scope `admin` may ask for, however."""

PUBLIC_PREFIX = "/page/"
"""The parts of the web page, which asks for a key itself."""


def new_key() -> str:
    """Return a fresh API key."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_hash(key: str) -> str:
    """Return what promptd.toml knows of a key. Keys are random and long, so a fast hash hides them well enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Allowance:
    """Up to `per_minute` of something at once, which grow back evenly over a minute; None is without end."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute or 0)
        self._seen = clock()

    def wait_s(self, amount: float) -> float:
        """Return the seconds until `amount` is there; 0 when it is."""
        if self._per_minute is None:
            return 0.0
        now = self._clock()
        self._left = min(self._per_minute, self._left + (now - self._seen) * self._per_minute / _MINUTE_S)
        self._seen = now
        return max(0.0, amount - self._left) * _MINUTE_S / self._per_minute

    def take(self, amount: float) -> None:
        """Use up `amount`, also what is not there: then it has to grow back first."""
        if self._per_minute is not None:
            self._left -= amount


class Client:
    """Whoever holds one key, or all who come without one where none is needed."""

    def __init__(self, settings: KeySettings | None, scopes: Sequence[str] = ()) -> None:
        self.settings = settings
        self.name = settings.name if settings else ""
        """The key's name; empty for those without."""
        self.scopes = frozenset(settings.scopes if settings else scopes)
        self.max_sessions = settings.max_sessions if settings else None
        """Most sessions it may have open; None is no limit of its own."""
        self._requests = Allowance(settings.requests_per_minute if settings else None)
        self._tokens = Allowance(settings.tokens_per_minute if settings else None)

    @property
    def identity(self) -> str:
        """What accounting and cache isolation know the client by where it talks to a graph without a guest."""
        return f"http/{self.name}" if self.name else "http"

    def admit(self) -> None:
        """Count one request; raises RateLimited."""
        for allowance, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if wait := allowance.wait_s(1):
                raise RateLimited(f"this key has used up its {what} of this minute", math.ceil(wait))
        self._requests.take(1)

    def charge(self, usage: Usage) -> None:
        """Count the tokens of a reply."""
        self._tokens.take(usage.prompt - usage.cached + usage.generated)


ANYONE = Client(None, ("chat", "admin"))
"""The client of a daemon without keys, where only this machine can connect."""

PASSER_BY = Client(None, ("chat",))
"""The client of a daemon without keys, where anyone can connect."""

_current: ContextVar[Client] = ContextVar("client", default=ANYONE)


def current_client() -> Client:
    """Return the client whose request is being answered."""
    return _current.get()


class KeyRing:
    """The keys there are, and what each has left of its minute."""

    def __init__(self, keys: Sequence[KeySettings] = (), *, anonymous: Client = ANYONE) -> None:
        """`anonymous` is whom requests come from when there are no keys."""
        self._clients = [Client(key) for key in keys]
        self._anonymous = anonymous

    def update(self, keys: Sequence[KeySettings]) -> None:
        """Take other keys; those that stay as they are do not get a new minute."""
        before = {client.settings: client for client in self._clients}
        self._clients = [before.get(key) or Client(key) for key in keys]

    def client(self, key: str) -> Client:
        """Return who holds `key`; raises InvalidKey."""
        if not self._clients:
            return self._anonymous
        given = key_hash(key)
        # Every hash is compared, so that the time taken tells nothing of which one was near.
        matching = [
            client
            for client in self._clients
            if client.settings is not None and hmac.compare_digest(client.settings.sha256, given)
        ]
        if not matching:
            raise InvalidKey(key)
        return matching[0]


class KeyDoor:
    """Lets requests in by their key: `Authorization: Bearer KEY`, `X-Api-Key: KEY`, or a WebSocket's subprotocol."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _is_public(scope):
            await self._app(scope, receive, send)
            return
        try:
            is_own = scope.get("state", {}).get(OWN_USER, False)
            client = ANYONE if is_own else self._keys.client(_key_of(scope))
            method = scope.get("method", "GET")  # a WebSocket has none; its messages are admitted one by one
            if (needed := scope_of(scope["path"], method)) not in client.scopes:
                raise ScopeMissing(needed)
            if method != "GET":
                client.admit()
        except (InvalidKey, ScopeMissing, RateLimited) as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        scope["promptd.client"] = client.name
        token = _current.set(client)
        try:
            await self._app(scope, receive, send)
        finally:
            _current.reset(token)


def scope_of(path: str, method: str = "GET") -> str:
    """Return the scope a request needs."""
    changes = method == "DELETE" and path.startswith("/v1/engine/")
    changes |= method != "GET" and path.startswith("/v1/guests")
    return "admin" if changes or path in ADMIN_PATHS else "chat"


def _is_public(scope: Scope) -> bool:
    path = scope["path"]
    # A browser asks without a key whether a page may ask with one.
    return path in PUBLIC_PATHS or path == "/" or path.startswith(PUBLIC_PREFIX) or scope.get("method") == "OPTIONS"


def _key_of(scope: Scope) -> str:
    """Return the key a request carries; nothing that is asked later sees it among the subprotocols."""
    headers = Headers(scope=scope)
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    offered = scope.get("subprotocols", [])
    scope["subprotocols"] = [protocol for protocol in offered if not protocol.startswith(KEY_PROTOCOL)]
    keys = [protocol.removeprefix(KEY_PROTOCOL) for protocol in offered if protocol.startswith(KEY_PROTOCOL)]
    return headers.get("x-api-key") or next(iter(keys), "")
