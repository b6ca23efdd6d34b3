"""Whatever a core module passes to a host function, it gets an errno: no exception, no crash, and no file of the host
is touched.
"""

from __future__ import annotations

import gc
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from puppet import EPHEMERAL, LEGACY, Errno, Puppet

from promptd.backends.echo import EchoGraph
from promptd.wasm.core import MODULES
from promptd.wasm.runtime import Runtime

ERRNOS = {*range(9), 100, 101, 102, 103}
PAGES = 16
END = PAGES * 65536

pointers = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(END - 64, END + 64),
    st.integers(0, 4096),
    st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]),
)
numbers = st.one_of(pointers, st.integers(0, 30))
calls = st.sampled_from([(name, function.parameters) for name, function in MODULES[EPHEMERAL].items()])


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"echo": EchoGraph()}


@pytest.fixture(scope="module")
def guest(runtime: Runtime, graphs: dict[str, Any]) -> Iterator[Puppet]:
    puppet = Puppet(runtime, graphs, contexts=10_000, memory=f'(memory (export "memory") {PAGES})')
    yield puppet
    puppet.close()


@pytest.fixture(scope="module")
def legacy(runtime: Runtime, graphs: dict[str, Any]) -> Iterator[Puppet]:
    puppet = Puppet(runtime, graphs, contexts=10_000, module=LEGACY, memory=f'(memory (export "memory") {PAGES})')
    yield puppet
    puppet.close()


_opened: list[str] = []
_watching = 0
"""The thread whose files are watched: engines that other tests have left running have threads of their own."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching == threading.get_ident() and event in (
        "open",
        "os.listdir",
        "os.scandir",
        "subprocess.Popen",
        "socket.connect",
        "shutil.rmtree",
    ):
        _opened.append(f"{event} {arguments[0]!r}")


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def no_file_is_touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Watch what the host does inside the guest's calls; around them Hypothesis and the garbage collector use files."""

    def watched(guest: Puppet, *arguments: Any) -> int:
        global _watching
        gc.disable()
        _watching = threading.get_ident()
        try:
            return call(guest, *arguments)
        finally:
            _watching = 0
            gc.enable()

    call = Puppet.call
    monkeypatch.setattr(Puppet, "call", watched)
    _opened.clear()
    yield
    ours = ("site-packages", "/lib/python", str(Path(__file__).parents[2]))
    assert not [opened for opened in _opened if not any(place in opened for place in ours)]


relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=300)


@relaxed
@given(calls, st.lists(numbers, min_size=5, max_size=5))
def test_any_numbers(guest: Puppet, call: tuple[str, int], arguments: list[int]) -> None:
    name, count = call
    assert guest.call(name, *arguments[:count]) in ERRNOS


@relaxed
@given(
    st.sampled_from([(n, f.parameters) for n, f in MODULES[LEGACY].items()]), st.lists(numbers, min_size=5, max_size=5)
)
def test_any_numbers_to_the_legacy_module(legacy: Puppet, call: tuple[str, int], arguments: list[int]) -> None:
    name, count = call
    assert legacy.call(name, *arguments[:count]) in ERRNOS


@relaxed
@given(st.lists(numbers, min_size=5, max_size=5), st.integers(0, 3))
def test_any_tensor(guest: Puppet, fields: list[int], index: int) -> None:
    guest._top = 65536
    context = guest.init(guest.load("echo"))
    tensor = guest.put(struct.pack("<5I", *fields))
    assert guest.call("set_input", context, index, tensor) in ERRNOS
    assert guest.call("compute", context) in ERRNOS
    assert guest.call("finalize_execution_context", context) == 0


@relaxed
@given(st.binary(max_size=64))
def test_any_name(guest: Puppet, name: bytes) -> None:
    guest._top = 65536
    assert guest.call("load_by_name", guest.put(name), len(name), 2048) in {0, 1, 8}
    assert guest.call("load_by_name_with_config", guest.put(name), len(name), 2048, 4, 2048) in {0, 1, 8}


@relaxed
@given(
    st.lists(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(lambda tail: b"GGUF" + tail)), max_size=4),
    numbers,
    numbers,
)
def test_any_model(guest: Puppet, builders: list[bytes], encoding: int, target: int) -> None:
    guest._top = 65536
    try:
        guest.load_bytes(*builders, encoding=encoding, target=target)
    except Errno as error:
        assert error.number in ERRNOS
    else:
        pytest.fail("noise is no model")
    finally:
        _opened.clear()  # a GGUF of the guest's is written to a private folder, which another test looks at


@relaxed
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.binary(max_size=20)), max_size=30))
def test_any_order_of_calls(runtime: Runtime, graphs: dict[str, Any], steps: list[tuple[int, int, bytes]]) -> None:
    """A model of what handles mean: what was opened and not closed works, all else is refused."""
    guest = Puppet(runtime, graphs)
    graph_handles: list[int] = []
    contexts: dict[int, int] = {}
    inputs: dict[int, bytes] = {}
    outputs: dict[int, bytes] = {}
    try:
        for step, which, data in steps:
            context = list(contexts)[which % len(contexts)] if contexts else 999
            live = context in contexts and contexts[context] in graph_handles
            if step == 0:
                handle = guest.load("echo")
                if handle not in graph_handles:
                    graph_handles.append(handle)
            elif step == 1 and graph_handles:
                contexts[guest.init(graph_handles[-1])] = graph_handles[-1]
            elif step == 2 and graph_handles:
                assert guest.call("unload", graph_handles.pop()) == 0
            elif step == 3:
                status = _status(lambda context=context, data=data: guest.set(context, data))
                assert (status == 0) == live
                if live:
                    inputs[context] = data
            elif step == 4:
                status = guest.call("compute", context)
                assert (status == 0) == live
                if live:
                    outputs[context] = inputs.get(context, b"")
            elif step == 5:
                status = guest.call("finalize_execution_context", context)
                assert (status == 0) == (contexts.pop(context, None) is not None)
                inputs.pop(context, None)
                outputs.pop(context, None)
            elif outputs.get(context) and context in inputs:
                assert guest.get(context) == outputs[context]
    finally:
        guest.close()


def _status(call: Any) -> int:
    try:
        call()
    except Errno as error:
        return error.number
    return 0
