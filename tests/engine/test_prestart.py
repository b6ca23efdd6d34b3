"""Workers that are started before anybody asks for a model, and load what a command loaded the last time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from exact import EXACT
from waiting import wait_until

from promptd import cli
from promptd.engine import last_start, prestart
from promptd.engine import spare as spare_module
from promptd.engine.client import Engine, start_command
from promptd.engine.messages import Start
from promptd.engine.process import WorkerProcess

FOLLOWS = EXACT.model_copy(update={"threads": None})


def prestarted(*command: str) -> WorkerProcess:
    prestart.prestart(command)
    return spare_module._spare[-1].process


@pytest.fixture(autouse=True)
def remembering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return the file of what commands loaded last, in a folder of this test's own."""
    monkeypatch.setenv("PROMPTD_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache" / last_start.FILE
    for spare in spare_module._spare:
        spare.discard()
    spare_module._spare.clear()
    spare_module._commands.clear()


def remembered() -> Start:
    start = last_start.recall(("chat",))
    assert start is not None
    return start


def test_a_command_begins_with_what_it_loaded_the_last_time(tiny: Callable[..., Path], remembering: Path) -> None:
    model = tiny()
    first = prestarted("run", "--graph", "a=b")
    assert spare_module._spare[0].loads is None
    with Engine(model, FOLLOWS) as engine:
        assert engine.stats().worker_pid == first.pid
        wait_until(remembering.exists)
    assert stat.S_IMODE(remembering.stat().st_mode) == 0o600
    written = remembering.read_bytes()
    for _ in range(2):
        again = prestarted("run", "--graph", "a=b")
        loads = spare_module._spare[0].loads
        assert loads is not None
        assert loads.path == str(model)
        with Engine(model, FOLLOWS) as engine:
            assert engine.stats().worker_pid == again.pid
            assert engine.count_tokens("Hello world") > 2
    assert remembering.read_bytes() == written
    prestarted("run", "--graph", "a=c")
    assert spare_module._spare[0].loads is None, "another command"


def test_a_memory_that_is_wrong_costs_a_process_and_nothing_else(tiny: Callable[..., Path], remembering: Path) -> None:
    model = tiny()
    prestarted("chat")
    with Engine(model, FOLLOWS):
        wait_until(remembering.exists)
    wrong = prestarted("chat")
    spill = Path(spare_module._spare[0].spill.name)
    assert spill.exists()
    with Engine(model, FOLLOWS.model_copy(update={"kv_tokens": 512})) as engine:
        assert engine.stats().worker_pid != wrong.pid
        assert engine.info.kv_tokens == 512
        assert not wrong.alive
        assert not spill.exists()
        wait_until(lambda: remembered().kv_tokens == 512)


def test_a_model_file_that_has_changed_is_not_loaded_unchecked(tiny: Callable[..., Path], remembering: Path) -> None:
    model = tiny()
    prestarted("chat")
    with Engine(model, FOLLOWS):
        wait_until(lambda: last_start.recall(("chat",)) is not None)
    model.write_bytes(model.read_bytes())
    assert last_start.recall(("chat",)) is None
    model.unlink()
    assert last_start.recall(("chat",)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no msgpack",
        b"\x91\x93\x91\xa1\xff\x90\x80",
        msgspec.msgpack.encode([[["chat"], [[1]], {"type": "Start"}]]),
    ],
)
def test_a_damaged_memory_is_none(remembering: Path, content: bytes) -> None:
    remembering.parent.mkdir()
    remembering.write_bytes(content)
    assert last_start.recall(("chat",)) is None


def test_a_memory_that_is_a_pipe_or_a_folder_is_none(remembering: Path) -> None:
    remembering.parent.mkdir()
    os.mkfifo(remembering)
    assert last_start.recall(("chat",)) is None
    remembering.unlink()
    remembering.mkdir()
    assert last_start.recall(("chat",)) is None


def test_a_memory_that_others_may_write_is_none(tiny: Callable[..., Path], remembering: Path) -> None:
    prestarted("chat")
    with Engine(tiny(), FOLLOWS):
        wait_until(lambda: last_start.recall(("chat",)) is not None)
    remembering.chmod(0o620)
    assert last_start.recall(("chat",)) is None


def test_the_latest_commands_are_remembered_and_an_unwritable_folder_is_no_error(
    tiny: Callable[..., Path], remembering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = start_command(tiny(), FOLLOWS)
    for number in range(last_start.MAX_ENTRIES + 1):
        last_start.remember((str(number),), start)
    assert last_start.recall(("0",)) is None
    assert last_start.recall(("1",)) == last_start.recall((str(last_start.MAX_ENTRIES),)) == start
    last_start.remember(("/folder/\udcff", "chat"), start)
    assert last_start.recall(("/folder/\udcff", "chat")) is None, "which is not UTF-8"
    monkeypatch.setenv("PROMPTD_CACHE_HOME", "/proc/no/folder")
    last_start.remember(("chat",), start)
    assert last_start.recall(("chat",)) is None


def test_a_prestarted_process_loads_the_first_model_and_no_second(tiny: Callable[..., Path]) -> None:
    model = tiny()
    spare = prestarted("chat")
    with Engine(model, EXACT) as fixed:  # which threads spin for another time
        assert fixed.stats().worker_pid != spare.pid
    follows = EXACT.model_copy(update={"threads": None})
    with Engine(model, follows) as first, Engine(model, follows) as second:
        assert first.stats().worker_pid == spare.pid != second.stats().worker_pid
    assert not spare.alive


def test_a_prestarted_process_that_died_is_not_missed(tiny: Callable[..., Path]) -> None:
    spare = prestarted("chat")
    os.kill(spare.pid, signal.SIGKILL)
    wait_until(lambda: not spare.alive)
    with Engine(tiny(), EXACT.model_copy(update={"threads": None})) as engine:
        assert engine.stats().worker_starts == 1


def test_a_prestarted_process_that_nobody_needs_ends_with_its_parent() -> None:
    program = (
        "from promptd.engine.prestart import prestart; prestart([]);"
        " from promptd.engine.spare import _spare; print(_spare[0].process.pid)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    wait_until(lambda: not Path(f"/proc/{int(ran.stdout)}").exists() if Path("/proc/self").exists() else True)


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        ("run --graph chat=smollm2 guest.wasm", True),
        ("-v run --graph=chat=file:x.gguf guest.wasm", True),
        ("run --config other.toml guest.wasm", True),
        ("chat", True),
        ("run --graph echo=echo guest.wasm", False),
        ("run guest.wasm", False),
        ("run --help", False),
        ("list", False),
        ("", False),
    ],
)
def test_a_process_is_prestarted_for_commands_that_load_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, guess: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._will_load_a_model(words.split()) == guess
