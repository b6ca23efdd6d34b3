"""Whole guests in C, built for WasmEdge's wasi-nn as its published examples are, on SmolLM2: they run as they are."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptd.backends.base import Graph
from promptd.backends.ggml import GgmlGraph
from promptd.config import EngineSettings, GraphSettings
from promptd.errors import NotFound
from promptd.wasm.grants import Grant
from promptd.wasm.guest import Guest
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdin, Stdio
from promptd.wasm.traps import GuestTrap

SOURCES = Path(__file__).parent / "core_guests"


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Return a function that compiles `core_guests/NAME.c` with zig, once for all runs."""
    if importlib.util.find_spec("ziglang") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("zig is missing: pip install ziglang")
        pytest.skip("zig is missing; get it with: pip install ziglang")

    def compile(name: str) -> Path:
        source = SOURCES / f"{name}.c"
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
        output = Path(request.config.cache.mkdir(f"core-guest-{digest}")) / f"{name}.wasm"  # type: ignore[union-attr]
        if not output.exists():
            partial = output.with_suffix(".part")
            command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-Os", "-s", "-D_GNU_SOURCE"]
            subprocess.run([*command, source, "-o", partial], check=True)
            partial.rename(output)
        return output

    return compile


@pytest.fixture(scope="module")
def graph(smollm2: Path) -> Iterator[GgmlGraph]:
    graph = GgmlGraph(smollm2, GraphSettings(model="smollm2"), EngineSettings(threads=1, kv_tokens=4096))
    yield graph
    graph.close()


class Run:
    """Opens sessions of one guest."""

    def __init__(self, runtime: Runtime, guest: Guest, graph: Graph) -> None:
        self._runtime = runtime
        self._guest = guest
        self._graph = graph
        self.out = bytearray()
        self.err = bytearray()

    def session(self, *args: str, stdin: Stdin | bytes = b"", wasmedge: bool = False, **env: str) -> Session:
        grant = Grant(graphs=frozenset({"default", "gone"}), args=args, env=env, wasmedge=wasmedge)
        stdio = Stdio(stdin, self.out.extend, self.err.extend)
        return Session(self._runtime, self._guest, grant, self._find, stdio)

    def __call__(self, *args: str, stdin: Stdin | bytes = b"", wasmedge: bool = False, **env: str) -> int:
        with self.session(*args, stdin=stdin, wasmedge=wasmedge, **env) as session:
            return session.run()

    def _find(self, name: str) -> Graph:
        if name != "default":
            raise NotFound("its model file is not there")
        return self._graph


@pytest.fixture
def chat(runtime: Runtime, compiled: Callable[[str], Path], graph: GgmlGraph) -> Run:
    return Run(runtime, runtime.load(compiled("chat")), graph)


def test_a_question_as_an_argument_is_answered(chat: Run) -> None:
    assert chat("default", "What is the capital of Japan?") == 0
    assert chat.out == b"[answer] The capital of Japan is Tokyo.<|im_end|>\n"


def test_a_reply_is_made_token_by_token(chat: Run) -> None:
    assert chat("default", "What is the capital of France?", STREAM="1") == 0
    answer, metadata = chat.out.decode().splitlines()
    assert answer == "[answer] The capital of France is Paris."
    assert json.loads(metadata)["output_tokens"] == 8


def test_what_the_host_prints_stands_where_the_guest_would_print_it(chat: Run) -> None:
    chat("default", "What is the capital of Japan?", CONFIG='{"temp": 0, "stream-stdout": true}')
    assert chat.out == b"[answer] " + b"The capital of Japan is Tokyo.<|im_end|>" * 2 + b"\n"


def test_lines_of_input_are_turns(chat: Run) -> None:
    with chat.session("default", stdin=Stdin.LINES) as session:
        assert session.turn() is None
        assert chat.out == b"[You] "
        for country, capital in (("Japan", "Tokyo"), ("Italy", "Rome")):
            chat.out.clear()
            assert session.turn(f"What is the capital of {country}?") is None
            assert chat.out == f"[answer] The capital of {country} is {capital}.<|im_end|>\n[You] ".encode()


def test_a_guest_that_asks_on_after_the_end_of_its_input_is_ended(chat: Run) -> None:
    with pytest.raises(GuestTrap, match="its standard input is at its end"):
        chat("default", stdin=b"What is the capital of Japan?\n")
    assert chat.out.count(b"[You] ") == 17
    assert b"Tokyo" in chat.out


@pytest.mark.parametrize("stream", [{}, {"STREAM": "1"}])
def test_what_does_not_fit_the_context_is_told_and_the_guest_goes_on(chat: Run, stream: dict[str, str]) -> None:
    config = '{"temp": 0, "ctx-size": 256, "ignore-eos": true}'
    assert chat("default", "word " * 300, CONFIG=config, **stream) == 0
    assert b"prompt too long" in chat.out
    chat.out.clear()
    assert chat("default", "word " * 225, CONFIG=config, **stream) == 0
    assert b"context full" in chat.out


def test_a_guest_sees_what_went_wrong(chat: Run) -> None:
    assert chat("other", "hello") == 1
    assert chat("gone", "hello") == 1
    assert chat("default", "hello", CONFIG="{") == 1
    assert chat("default", "hello", CONFIG='{"image": "/etc/passwd"}') == 1
    errors = chat.err.decode().splitlines()
    assert errors == [f"[ERROR] load_by_name_with_config: {errno}" for errno in (8, 103, 2, 1)]


def test_a_model_whose_file_is_gone_has_an_errno_of_its_own_for_guests_of_wasmedge(
    runtime: Runtime, compiled: Callable[[str], Path], graph: GgmlGraph
) -> None:
    run = Run(runtime, runtime.load(compiled("model_not_found")), graph)
    assert run("gone", wasmedge=True) == 0
    assert run.out == b"model_not_found.wasm 103\n"
    assert run("gone") == 1, "it imports none of WasmEdge's extensions, so it gets the errno every guest knows"
    assert run.out.endswith(b" 8\n")


def test_a_guest_that_is_stopped_in_a_reply_ends_at_once(chat: Run) -> None:
    with chat.session("default", "Tell me a story.", CONFIG='{"ignore-eos": true, "stream-stdout": true}') as session:
        chat.out = _StopAfter(session)  # type: ignore[assignment]
        session._streams._stdio = Stdio(b"", chat.out.extend, chat.err.extend)
        with pytest.raises(GuestTrap, match="enough"):
            session.run()


class _StopAfter(bytearray):
    """Stops a session once something was printed in it."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def extend(self, data: bytes) -> None:  # type: ignore[override]
        super().extend(data)
        if len(self) > 30:
            self._session.stop("enough")
