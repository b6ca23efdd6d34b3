from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from promptd.config import GraphSettings
from promptd.errors import InvalidArgument, NotFound, RuntimeFailure
from promptd.graphs.registry import Registry


class Graph:
    def __init__(self, name: str, settings: GraphSettings) -> None:
        self.name, self.model, self.closed = name, settings.model, 0

    def close(self) -> None:
        self.closed += 1


SETTINGS = {"chat": GraphSettings(model="smollm2"), "test": GraphSettings(model="echo")}


def _together(count: int, call: Callable[[], object]) -> list[object]:
    """Call from `count` threads at once; return results and exceptions."""
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes


def test_a_graph_is_loaded_once_and_shared() -> None:
    registry = Registry(Graph, SETTINGS)
    assert registry.loaded() == {}
    graph = registry.get("chat")
    assert registry.get("chat") is graph
    assert (graph.name, graph.model) == ("chat", "smollm2")
    assert registry.loaded() == {"chat": graph}
    assert registry.names() == ["chat", "test"]


def test_threads_that_ask_at_once_wait_for_one_load() -> None:
    loads, waiting = [], threading.Event()

    def load(name: str, settings: GraphSettings) -> Graph:
        loads.append(name)
        waiting.wait(5)
        return Graph(name, settings)

    registry = Registry(load, SETTINGS)
    threading.Timer(0.2, waiting.set).start()
    outcomes = _together(8, lambda: registry.get("chat"))
    assert loads == ["chat"]
    assert len({id(outcome) for outcome in outcomes}) == 1
    assert len(outcomes) == 8


def test_one_slow_graph_does_not_hold_up_another() -> None:
    release = threading.Event()

    def load(name: str, settings: GraphSettings) -> Graph:
        if name == "chat":
            release.wait(10)
        return Graph(name, settings)

    registry = Registry(load, SETTINGS)
    slow = threading.Thread(target=registry.get, args=("chat",))
    slow.start()
    assert registry.get("test").name == "test"
    assert set(registry.loaded()) == {"test"}
    release.set()
    slow.join(10)
    assert set(registry.loaded()) == {"chat", "test"}


def test_a_failed_load_is_told_to_all_who_wait_and_tried_again_afterwards() -> None:
    failing, waiting = [True], threading.Event()

    def load(name: str, settings: GraphSettings) -> Graph:
        waiting.wait(5)
        if failing:
            raise RuntimeFailure("the model is broken")
        return Graph(name, settings)

    registry = Registry(load, SETTINGS)
    threading.Timer(0.2, waiting.set).start()
    outcomes = _together(4, lambda: registry.get("chat"))
    assert [str(outcome) for outcome in outcomes] == ["the model is broken"] * 4
    assert registry.loaded() == {}
    failing.clear()
    assert registry.get("chat").name == "chat"


def test_an_interrupted_load_leaves_the_registry_usable() -> None:
    interrupted = [True]

    def load(name: str, settings: GraphSettings) -> Graph:
        if interrupted:
            interrupted.clear()
            raise KeyboardInterrupt
        return Graph(name, settings)

    registry = Registry(load, SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        registry.get("chat")
    assert registry.get("chat").name == "chat"


def test_an_unknown_name_is_not_found() -> None:
    registry = Registry(Graph, SETTINGS)
    with pytest.raises(NotFound, match="no graph is called 'secret'"):
        registry.get("secret")
    with pytest.raises(NotFound, match="no guest is called 'x'"):
        Registry(Graph, SETTINGS, kind="guest").settings("x")


def test_a_graph_can_be_added_under_a_free_name() -> None:
    registry = Registry(Graph, SETTINGS)
    registry.add("more", GraphSettings(model="qwen3"))
    assert registry.get("more").model == registry.settings("more").model == "qwen3"
    with pytest.raises(InvalidArgument, match="already a graph called 'chat'"):
        registry.add("chat", GraphSettings(model="echo"))


def test_closing_unloads_everything_once_and_for_all() -> None:
    registry = Registry(Graph, SETTINGS)
    graph = registry.get("chat")
    registry.close()
    registry.close()
    assert graph.closed == 1
    assert registry.loaded() == {}
    with pytest.raises(RuntimeFailure, match="shutting down"):
        registry.get("chat")


def test_a_graph_that_finishes_loading_after_the_close_is_unloaded_by_its_loader() -> None:
    loading, release = threading.Event(), threading.Event()
    made: list[Graph] = []

    def load(name: str, settings: GraphSettings) -> Graph:
        loading.set()
        release.wait(10)
        made.append(Graph(name, settings))
        return made[0]

    registry = Registry(load, SETTINGS)
    outcomes: list[object] = []
    thread = threading.Thread(target=lambda: outcomes.extend(_together(1, lambda: registry.get("chat"))))
    thread.start()
    assert loading.wait(10)
    registry.close()
    release.set()
    thread.join(10)
    assert made[0].closed == 1
    assert isinstance(outcomes[0], RuntimeFailure)


def test_things_that_need_no_closing_may_be_registered_too() -> None:
    registry = Registry(lambda name, settings: (name, settings), {"a": 1})
    assert registry.get("a") == ("a", 1)
    registry.close()
