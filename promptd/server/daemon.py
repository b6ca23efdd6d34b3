"""Runs the app on uvicorn until a signal ends it: the socket, the ready line, the drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from promptd.config import Settings
from promptd.errors import InvalidArgument, SecurityDenied
from promptd.server.app import create_app
from promptd.server.connections import KEEP_ALIVE_S, Connection, Socket
from promptd.server.doors import MAX_HEADER_BYTES, is_loopback
from promptd.server.reload import Reload
from promptd.server.turn import Turns
from promptd.wasm.host import Host

DRAIN_S = 5.0
"""What running replies get to end by themselves after SIGTERM; then they end with an error the client can read."""

MAX_SOCKET_MESSAGE = 16 * 1024**2
"""Bytes of one message over a WebSocket; the connection of a larger one is closed with code 1009."""

PING_S = 20.0
"""How often the client of a WebSocket is asked whether it is there, and how long it has to answer."""

_HANGUP_S = 5
"""Beyond the drain, what connections get whose client does not read what it was sent."""

_BACKLOG = 2048

_OPEN_FILES = 65536

_log = logging.getLogger(__name__)


UNIX_PREFIX = "unix:"
"""Opens a host that is the path of a socket file."""


def listen(host: str, port: int, *, allow_remote: bool = False) -> socket.socket:
    """Return a socket bound to `host` and `port` (0 takes a free one), or to the file of `unix:PATH`.

    Raises SecurityDenied for an address other machines can reach, unless `allow_remote`, and InvalidArgument when the
    address cannot be had.
    """
    if host.startswith(UNIX_PREFIX):
        return listen_at(Path(host.removeprefix(UNIX_PREFIX)))
    family, address = find_address(host, port, allow_remote=allow_remote)
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InvalidArgument(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error


def find_address(host: str, port: int, *, allow_remote: bool) -> tuple[int, tuple[str, int]]:
    """Return the family and the address of a name; raises what `listen` does, but for what only binding shows."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InvalidArgument(
            f"cannot listen on {host!r}: it is neither an address nor a name of this machine"
        ) from error
    if not allow_remote and not is_loopback(str(address[0])):
        raise SecurityDenied(
            f"{host} can be reached from other machines, and nothing asks them for a key; listen on 127.0.0.1, "
            "add keys to [server] (`promptd key` makes one), or --allow-remote to let everyone use the models"
        )
    return family, (str(address[0]), int(address[1]))


def listen_at(path: Path) -> socket.socket:
    """Return a socket bound to the file `path`, which only this user can connect to; raises InvalidArgument."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and not _is_answered(path):
            path.unlink()  # left behind by a daemon that was killed
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InvalidArgument(f"cannot listen on unix:{path}: {reason}") from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Return whether only this machine can connect to a listening socket."""
    return listener.family == socket.AF_UNIX or is_loopback(listener.getsockname()[0])


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Daemon:
    """The server over one host and one listening socket, which its caller closes."""

    def __init__(
        self,
        host: Host,
        listener: socket.socket,
        *,
        announce: Callable[[str], None],
        control: socket.socket | None = None,
        read_settings: Callable[[], Settings] | None = None,
    ) -> None:
        """`announce` gets the line that says where the daemon listens, once it does; `read_settings` returns what is to
        be served from then on, when SIGHUP or an admin asks for it.

        Who comes through the socket file `control` is the daemon's own user, and needs no key.
        """
        turns = Turns()
        local = is_local(listener)
        names = () if local else (socket.getfqdn(),)
        reload = Reload(host, read_settings)
        config = uvicorn.Config(
            create_app(host, turns, reload, names=names, local=local),
            http=partial(Connection, control=None if control is None else control.getsockname()),  # type: ignore[arg-type]
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            limit_concurrency=host.settings.server.max_connections,
            ws=Socket,
            ws_max_size=min(host.settings.server.max_body, MAX_SOCKET_MESSAGE),
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            ws_per_message_deflate=False,  # which costs each connection hundreds of kilobytes
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(DRAIN_S) + _HANGUP_S,
        )
        self._listeners = [listener] if control is None else [listener, control]
        self._server = _Server(config, turns, reload, lambda: announce(f"promptd is listening on {_url(listener)}"))

        def update(settings: Settings) -> None:
            config.limit_concurrency = settings.server.max_connections
            config.ws_max_size = min(settings.server.max_body, MAX_SOCKET_MESSAGE)

        reload.listeners.append(update)

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `stop`, then drain and return."""
        _raise_file_limit()
        with _signals_survived():
            self._server.run(self._listeners)

    def stop(self) -> None:
        """Let `run` drain and return; from any thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, reloads on SIGHUP, and ends running replies at shutdown."""

    def __init__(self, config: uvicorn.Config, turns: Turns, reload: Reload, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._turns = turns
        self._reload = reload
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload.begin)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # First, since uvicorn hangs up WebSockets at once. New requests are told meanwhile that the daemon goes down.
        await self._turns.drain(DRAIN_S)
        await super().shutdown(sockets)


@contextmanager
def _signals_survived() -> Iterator[None]:
    """Let the process outlive the signal that uvicorn raises again once it has shut down cleanly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignore(number: int, frame: FrameType | None) -> None:
        _log.debug("%s", signal.Signals(number).name)

    before = {number: signal.signal(number, ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_file_limit() -> None:
    """Let the process have as many open files as it may: a client takes one, a live command guest about nine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS refuses more than kern.maxfilesperproc
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _url(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"{UNIX_PREFIX}{listener.getsockname()}"
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if listener.family == socket.AF_INET6 else f"http://{address}:{port}"
