"""Runs guests with a graph that shows what it was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from counting_graph import CountingGraph
from running import Ran, RunGuest

from promptd.wasm.cache import CompileCache
from promptd.wasm.grants import Grant
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdio


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    runtime = Runtime(CompileCache.open())
    yield runtime
    runtime.close()


@pytest.fixture
def graph() -> CountingGraph:
    return CountingGraph()


@pytest.fixture
def run_guest(runtime: Runtime, graph: CountingGraph) -> RunGuest:
    """Return a function that runs a command guest which is granted the graph as `chat`."""

    def run(
        component: Path,
        *args: str,
        stdin: str | bytes = b"",
        env: Mapping[str, str] = {},
        written: list[bytes] | None = None,
    ) -> Ran:
        out = [] if written is None else written
        err: list[bytes] = []
        stdio = Stdio(stdin.encode() if isinstance(stdin, str) else stdin, out.append, err.append)
        grant = Grant(graphs=frozenset({"chat"}), env=env, args=args)
        with Session(runtime, runtime.load(component), grant, lambda name: graph, stdio) as session:
            code = session.run()
        return Ran(code, b"".join(out).decode(), b"".join(err).decode())

    return run
