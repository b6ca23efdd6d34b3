"""`promptd serve`: the daemon that keeps graphs loaded and guests at hand."""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from promptd.cli.models import pull_missing
from promptd.cli.options import Config, Graphs, Offline, Options, read_settings
from promptd.cli.output import print_line
from promptd.config import Settings
from promptd.errors import InvalidArgument, NotFound, PromptdError, SecurityDenied
from promptd.suggestions import did_you_mean

_log = logging.getLogger(__name__)


def serve(
    address: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", help="Where to listen; 127.0.0.1 by default. unix:PATH is a socket file."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="8040 by default; 0 takes a free one and prints it."),
    ] = None,
    config: Config = None,
    graph: Graphs = [],
    guest: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FILE", help="Serve a WebAssembly file as the model guest/NAME; it may use every graph."
        ),
    ] = [],
    option: Options = [],
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen where other machines can connect, asking nobody for a key.")
    ] = False,
    offline: Offline = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether the settings are right, and serve nothing.")
    ] = False,
) -> None:
    """Serve graphs and guests over HTTP, in OpenAI's shape and as sessions, until SIGTERM or Ctrl-C.

    SIGHUP, or `promptd reload`, reads the settings again; running sessions keep what they were opened with.
    """

    def read() -> Settings:
        settings = read_settings(config, graph, option, guest)
        given = {"host": address, "port": port}
        server = settings.server.model_copy(update={key: value for key, value in given.items() if value is not None})
        settings = settings.model_copy(update={"server": server})
        _check(settings)
        return settings

    settings = read()
    server = settings.server
    if check:
        from promptd.server.daemon import UNIX_PREFIX, find_address

        if not server.host.startswith(UNIX_PREFIX):
            find_address(server.host, server.port, allow_remote=allow_remote or bool(server.keys))
        counts = (("graph", settings.graphs), ("guest", settings.guests), ("key", server.keys))
        print_line("the settings are right: " + ", ".join(_count(len(what), name) for name, what in counts))
        return

    from promptd.backends.graphs import Graphs
    from promptd.graphs.store import Store
    from promptd.server.allocator import give_freed_memory_back
    from promptd.server.daemon import Daemon, is_local, listen
    from promptd.server.logs import write_logs
    from promptd.wasm.host import Host

    give_freed_memory_back()
    write_logs(server.log)
    with listen(server.host, server.port, allow_remote=allow_remote or bool(server.keys)) as listener:
        store = Store(offline=offline or None)
        pull_missing(store, [graph.model for graph in settings.graphs.values()])

        def read_again() -> Settings:
            settings = read()
            if not (settings.server.keys or allow_remote or is_local(listener)):
                raise SecurityDenied(
                    "without keys, everyone who can connect could use the models; keep one in [server]"
                )
            pull_missing(store, [graph.model for graph in settings.graphs.values()])
            return settings

        with closing(Host(settings, graphs=Graphs(settings, store))) as host:
            host.load_guests()
            control = _control(listener)
            path = None if control is None else Path(control.getsockname())
            try:
                Daemon(host, listener, announce=print_line, control=control, read_settings=read_again).run()
            finally:
                if path is not None:
                    path.unlink(missing_ok=True)
    _end()


def _end() -> NoReturn:
    """Exit with 0, and wait for no thread: one may hang for ever, in a file system or in a guest that sleeps.

    The interpreter would wait for those of the server's pools, and would pull the ground from under those of wasmtime.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _check(settings: Settings) -> None:
    """Find at the start what would otherwise fail at the first request; raises a PromptdError."""
    if not settings.graphs and not settings.guests:
        raise InvalidArgument("there is nothing to serve: name a graph, for example --graph chat=smollm2, or a --guest")
    from promptd.graphs.store import Store

    store = Store(offline=True)
    for graph in settings.graphs.values():
        store.check(graph.model)
    for name, guest in settings.guests.items():
        if not guest.file.is_file():
            raise NotFound(f"guest {name}: there is no file {guest.file}")
        for granted in guest.graphs:
            if granted not in settings.graphs:
                hint = did_you_mean(granted, settings.graphs)
                raise NotFound(
                    f"guest {name} is granted graph {granted!r}, which is not defined: add --graph {granted}=REF{hint}"
                )


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _control(listener: socket.socket) -> socket.socket | None:
    """Return the control socket of a daemon that listens on a port; None, with a warning, where it cannot be had."""
    from promptd.server.control import control_path
    from promptd.server.daemon import listen_at

    if listener.family == socket.AF_UNIX:
        return None
    try:
        return listen_at(control_path(listener.getsockname()[1]))
    except (PromptdError, OSError) as error:
        _log.warning("promptd ps, stop and logs will not reach this daemon: %s", error)
        return None
