"""`promptd run`: runs one command guest on the terminal's standard input and output."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from promptd.cli import completion
from promptd.cli.models import pull_missing
from promptd.cli.options import Config, Graphs, Offline, Options, Preloads, read_settings, split_pair
from promptd.cli.output import print_line
from promptd.config import GuestSettings, Settings, guest_limits
from promptd.errors import InvalidArgument, NotFound
from promptd.suggestions import did_you_mean
from promptd.wasm.grants import directory_grant

OWN_OPTIONS = {"--graph", "-o", "--option", "--env", "--dir", "--memory", "--deadline", "--config", "--offline"}


def run(
    guest: Annotated[
        str,
        typer.Argument(
            metavar="GUEST.wasm",
            help="A WebAssembly file, or a guest of promptd.toml.",
            autocompletion=completion.guests,
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="The guest's own arguments.")
    ] = None,
    graph: Graphs = [],
    option: Options = [],
    preload: Preloads = [],
    env: Annotated[list[str], typer.Option(metavar="K=V", help="Grant an environment variable.")] = [],
    directory: Annotated[list[str], typer.Option("--dir", metavar="HOST::GUEST[::ro]", help="Grant a directory.")] = [],
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory limit, e.g. 256MiB.")] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="Time limit, e.g. 60s.")] = None,
    config: Config = None,
    offline: Offline = False,
) -> None:
    """Run a WebAssembly guest on this terminal. It is granted what the options name, and nothing else.

    The exit code is the guest's own; 134 when it trapped or hit a limit, 1 when it could not be run.
    """
    check_text("the guest's arguments", arguments or [])
    check_text("--env", env)
    settings = read_settings(config, graph, option, preloads=preload)
    if misplaced := OWN_OPTIONS & set(arguments or ()):
        note = f"promptd: {min(misplaced)} is given to the guest; promptd's own options go before {guest}"
        print_line(note, sys.stderr)
    granted = _guest_settings(guest, settings)
    granted = granted.model_copy(
        update={
            "args": (*granted.args, *(arguments or ())),
            "env": {**granted.env, **dict(split_pair(pair, "--env", "K=V") for pair in env)},
            "graphs": (*granted.graphs, *(text.partition(":")[0] for text in preload)),
            "wasmedge": granted.wasmedge or bool(preload),
            "dirs": (*granted.dirs, *(directory_grant(text) for text in directory)),
            **guest_limits(memory=memory, deadline=deadline),
        }
    )
    run_guest(settings, granted, offline=offline)


def run_guest(
    settings: Settings, guest: GuestSettings, *, offline: bool = False, ctrl_c_stops_replies: bool = False
) -> None:
    """Run a command guest on this process's standard input and output, and exit with its code.

    With `ctrl_c_stops_replies`, Ctrl-C ends the reply that is being streamed, and the guest only when there is none.
    """
    from promptd.backends.graphs import Graphs
    from promptd.cli.terminal import terminal_sink
    from promptd.graphs.store import Store

    store = Store(offline=offline or None)
    name = guest.file.name
    settings = settings.model_copy(update={"guests": {name: guest}})
    models = [settings.graphs[graph].model for graph in guest.graphs if graph in settings.graphs]
    pull_missing(store, models, check_files=not guest.wasmedge)  # WasmEdge looks at files only when a guest loads them
    graphs = Graphs(settings, store)
    if not guest.wasmedge:
        graphs.preload(name for name in guest.graphs if name in settings.graphs)

    from promptd.wasm.host import Host  # wasmtime is imported while the workers load
    from promptd.wasm.stdio import Stdin, Stdio

    stdio = Stdio(Stdin.INHERIT, terminal_sink(1), terminal_sink(2))
    with (
        closing(Host(settings, graphs=graphs)) as host,
        host.open_session(name, stdio=stdio, identity=name) as session,
    ):
        if ctrl_c_stops_replies:

            def on_interrupt(number: int, frame: FrameType | None) -> None:
                if not session.interrupt():
                    raise KeyboardInterrupt

            signal.signal(signal.SIGINT, on_interrupt)
        gc.freeze()
        gc.enable()
        try:
            code = session.run()
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                print_line(stream=sys.stderr)  # ends the line on which the terminal echoed ^C
            raise
    sys.exit(code)


def check_text(where: str, words: Sequence[str]) -> None:
    """Raise InvalidArgument for words that were not UTF-8: a guest's strings are."""
    for word in words:
        if not word.isprintable() and any("\ud800" <= character <= "\udfff" for character in word):
            raise InvalidArgument(f"{where} are not UTF-8 text: {word!r}")


def _guest_settings(guest: str, settings: Settings) -> GuestSettings:
    """Return the settings of the guest of that name, or of a mere file, which may use every named graph."""
    if guest in settings.guests and not Path(guest).exists():
        return settings.guests[guest]
    if settings.guests and not Path(guest).exists():
        names = ", ".join(sorted(settings.guests))
        hint = did_you_mean(guest, settings.guests)
        raise NotFound(
            f"there is no guest file {guest}, and the settings have no guest of that name, only {names}{hint}"
        )
    return GuestSettings(file=Path(guest), graphs=tuple(settings.graphs))
