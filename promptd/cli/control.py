"""`promptd ps`, `stop`, `reload` and `logs`: what a running daemon does, over its control socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from promptd.cli import completion
from promptd.cli.output import print_json, print_line, print_table
from promptd.errors import NotFound, RuntimeFailure
from promptd.graphs.sizes import human_size

Port = Annotated[int, typer.Option("--port", metavar="PORT", help="The port of the daemon.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_PORT = 8040
COLUMNS = ("NAME", "DIGEST", "SIZE", "PROCESSOR", "CONTEXT", "RESIDENT/SPILLED", "TOKENS/S", "UNTIL")
DIGEST_DIGITS = 12


def ps(port: Port = DEFAULT_PORT, as_json: AsJson = False) -> None:
    """List the models a running daemon has loaded, and what they are doing."""
    engines = ask(port, "GET", "/v1/engine")["data"]
    if as_json:
        print_json(engines)
        return
    rows = [
        (
            engine["graph"],
            (engine["digest"] or "-").removeprefix("sha256:")[:DIGEST_DIGITS],
            human_size(engine["memory"]["worker_resident"]),
            engine["device"],
            str(engine["context"]),
            f"{engine['kv']['resident']}/{engine['kv']['spilled']}",
            f"{engine['tokens']['per_second']:.1f}",
            _until(engine),
        )
        for engine in engines
    ]
    print_table(COLUMNS, rows)


def _until(engine: dict[str, Any]) -> str:
    """Return when the model is unloaded if nobody uses it."""
    seconds = engine["unload_seconds"]
    if engine["worker_pid"] is None:
        return "unloaded"
    if seconds is None:
        return "forever"
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def stop(
    name: Annotated[str, typer.Argument(metavar="GRAPH", autocompletion=completion.loaded_graphs)],
    port: Port = DEFAULT_PORT,
) -> None:
    """Unload a graph of a running daemon; its replies end with an error, its next prompt loads it again."""
    ask(port, "DELETE", f"/v1/engine/{name}")
    print_line(f"{name} is unloaded")


def logs(
    port: Port = DEFAULT_PORT, lines: Annotated[int, typer.Option("-n", min=1, help="How many lines.")] = 100
) -> None:
    """Print the last lines of a running daemon's log."""
    for line in ask(port, "GET", f"/v1/logs?lines={lines}")["data"]:
        print_line(line)


def reload(port: Port = DEFAULT_PORT, as_json: AsJson = False) -> None:
    """Let a running daemon read its settings again; running sessions keep what they were opened with."""
    changes = ask(port, "POST", "/v1/reload", timeout_s=None)["changes"]  # it may have to fetch a model
    if as_json:
        print_json(changes)
        return
    for change in changes or ["nothing has changed"]:
        print_line(change)


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(port: int, method: str, target: str, timeout_s: float | None = 30) -> dict[str, Any]:
    """Return the daemon's answer; raises NotFound when none runs there, RuntimeFailure with the error it answers."""
    from promptd.server.control import control_path

    connection = _Connection(control_path(port), timeout_s)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        body = json.loads(response.read() or b"{}")
    except OSError as error:
        raise NotFound(f"no daemon of this user answers on port {port}: start one with `promptd serve`") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise RuntimeFailure(body["error"]["message"])
    return dict(body)
