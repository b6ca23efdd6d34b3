"""The budget of memory: which models are unloaded for another, and which are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from exact import EXACT, GREEDY
from tiny_model import write_tiny_model
from waiting import wait_until

from promptd.backends.gguf_shape import read_shape
from promptd.chat import Completion, Message
from promptd.engine import process
from promptd.engine.client import Engine, start_command
from promptd.engine.kv_size import kv_cells
from promptd.engine.memory import MemoryBudget, available_memory
from promptd.engine.options import Sampling
from promptd.errors import Busy, RuntimeFailure, TooLarge

Ask = Callable[..., Completion]
Load = Callable[..., Engine]


@pytest.fixture
def one(tmp_path: Path) -> int:
    """Bytes of one tiny model and its KV cache."""
    with Engine(write_tiny_model(tmp_path / "measured.gguf"), EXACT) as engine:
        return engine.info.model_bytes + engine.info.kv_bytes


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Return a function that loads tiny models in one budget, each from a file of its own."""
    budget = MemoryBudget()
    with ExitStack() as stack:

        def load(name: str, memory: int | None) -> Engine:
            path = write_tiny_model(tmp_path / f"{name}.gguf")
            settings = EXACT.model_copy(update={"memory": memory})
            return stack.enter_context(Engine(path, settings, shape=read_shape(path), budget=budget))

        yield load


def loaded(*engines: Engine) -> list[bool]:
    return [engine.stats().worker_pid is not None for engine in engines]


def test_the_model_used_least_recently_is_unloaded_for_another_and_goes_on_when_it_is_used_again(
    load: Load, one: int, ask: Ask
) -> None:
    memory = one * 5 // 2
    first, second = load("first", memory), load("second", memory)
    conversation = first.conversation("guest")
    turn = ask(conversation, "hello")
    third = load("third", memory)
    assert loaded(first, second, third) == [True, False, True]
    assert second.count_tokens("hello") == load("fourth", memory * 10).count_tokens("hello")
    assert loaded(first, second, third)[:2] == [False, True]
    again = ask(conversation, "hello")
    assert again.usage.prompt > turn.usage.prompt, "the conversation was rebuilt from its tokens"
    assert first.stats().worker_starts == 2


def test_a_model_in_use_is_not_unloaded_and_another_is_refused_until_it_is_done(load: Load, one: int) -> None:
    memory = one * 3 // 2
    first = load("first", memory)
    unending = Sampling(temperature=0, max_tokens=200, ignore_end=True)
    reply = first.generate("guest", first.tokenize(b"hello"), unending, ahead=1)  # it waits to be read
    with pytest.raises(Busy, match=r"there is no memory for second.gguf \(.*\) while first.gguf is in use; try again"):
        load("second", memory)
    assert loaded(first) == [True]
    reply.cancel()
    wait_until(lambda: first.stats().running == 0)
    assert loaded(load("second", memory), first) == [True, False]


def test_a_model_larger_than_the_budget_is_refused(load: Load, one: int) -> None:
    first = load("first", one * 3 // 2)
    with pytest.raises(TooLarge, match=r"second.gguf takes .* raise \[engine\] memory"):
        load("second", 50_000)
    assert loaded(first) == [True], "nothing was unloaded in vain"


def test_room_is_made_before_a_model_is_loaded_for_the_first_time(
    load: Load, one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("first", one * 3 // 2)
    with monkeypatch.context() as crashing:
        crashing.setattr(process, "_BOOT", "import os; os.abort()")
        with pytest.raises(RuntimeFailure, match=r"SIGABRT while it loaded second\.gguf"):
            load("second", one * 3 // 2)
    assert loaded(first) == [False]
    assert loaded(load("third", one * 3 // 2)) == [True], "what the second took was given back"


def test_a_model_counts_before_it_is_loaded_as_it_does_after(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    settings = EXACT.model_copy(update={"kv_tokens": 1000})
    with Engine(path, settings, shape=(shape := read_shape(path))) as engine:
        assert kv_cells(start_command(path, settings), shape) * shape.kv_cell_bytes == engine.info.kv_bytes


def test_a_model_that_comes_without_a_budget_keeps_to_that_of_the_others(load: Load, one: int) -> None:
    first = load("first", one * 3 // 2)
    second = load("second", None)
    assert loaded(first, second) == [False, True]


def test_without_a_budget_a_model_is_loaded_as_memory_allows(
    load: Load, one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available_memory() > 0
    monkeypatch.setattr("promptd.engine.memory.available_memory", lambda: 1)
    first = load("first", None)
    assert loaded(first) == [True], "alone it is loaded"
    second = load("second", None)
    assert loaded(first, second) == [False, True]
    monkeypatch.undo()
    assert first.conversation("guest").send([Message("user", "hello")], GREEDY).result().usage.generated > 0
    assert loaded(first, second) == [True, True]
