"""Loads and runs guests written as WebAssembly text, with an echo graph behind every granted name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptd.backends.base import Graph
from promptd.backends.echo import EchoGraph
from promptd.config import GuestLimits
from promptd.errors import NotFound
from promptd.wasm.grants import Grant
from promptd.wasm.guest import Guest
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdin, Stdio


@dataclass
class Opened:
    """A session, and what its guest has written."""

    session: Session
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)


class Host:
    """Loads guests and opens sessions, with an echo graph behind every granted name."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self.runtime = runtime
        self._folder = folder
        self._opened: list[Session] = []
        self.graphs: dict[str, Graph] = {"echo": EchoGraph()}

    def load(self, text: str, name: str = "guest") -> Guest:
        path = self._folder / f"{name}.wat"
        path.write_text(text)
        return self.runtime.load(path)

    def graph(self, name: str) -> Graph:
        if name not in self.graphs:
            raise NotFound(f"the operator has no graph {name}")
        return self.graphs[name]

    def open(
        self,
        guest: str | Guest,
        *,
        grant: Grant | None = None,
        stdin: Stdin | bytes = Stdin.CLOSED,
        **limits: Any,
    ) -> Opened:
        guest = guest if isinstance(guest, Guest) else self.load(guest)
        grant = grant or Grant(graphs=frozenset(self.graphs), limits=GuestLimits(**limits))
        stdout, stderr = bytearray(), bytearray()
        stdio = Stdio(stdin, stdout=stdout.extend, stderr=stderr.extend)
        session = Session(self.runtime, guest, grant, self.graph, stdio)
        self._opened.append(session)
        return Opened(session, stdout, stderr)

    def run(self, guest: str | Guest, **how: Any) -> tuple[int, str]:
        """Run a command and return its exit code and standard output."""
        opened = self.open(guest, **how)
        return opened.session.run(), opened.stdout.decode(errors="replace")

    def close(self) -> None:
        for session in self._opened:
            session.close()
