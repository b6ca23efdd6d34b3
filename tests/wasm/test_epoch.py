"""The epoch, whose ticks stop guests that compute: it stands still where none does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from waiting import wait_until
from wasmtime import Engine

from promptd.wasm.control import Control
from promptd.wasm.runtime import DEADLINE_TICK_S, Runtime


class CountingEngine:
    """The runtime's engine, with its ticks counted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ticks = 0

    def increment_epoch(self) -> None:
        self.ticks += 1
        self._engine.increment_epoch()


@pytest.fixture
def ticking() -> Iterator[tuple[Runtime, CountingEngine]]:
    runtime = Runtime()
    engine = CountingEngine(runtime.engine)
    runtime.engine = engine  # type: ignore[assignment]
    yield runtime, engine
    runtime.close()


def stands_still(engine: CountingEngine) -> bool:
    pause = threading.Event()
    pause.wait(3 * DEADLINE_TICK_S)  # for a tick that was on its way
    before = engine.ticks
    pause.wait(10 * DEADLINE_TICK_S)
    return engine.ticks == before


def goes_on(engine: CountingEngine) -> bool:
    before = engine.ticks
    wait_until(lambda: engine.ticks >= before + 3)
    return True


def test_there_are_ticks_while_a_guest_computes_and_none_while_all_are_in_host_calls(
    ticking: tuple[Runtime, CountingEngine],
) -> None:
    runtime, engine = ticking
    with runtime.running("one"):
        assert goes_on(engine)
        with runtime.paused():
            assert stands_still(engine)
            with runtime.running("two"):
                assert goes_on(engine)
                with runtime.paused():
                    assert stands_still(engine)
                assert goes_on(engine)
            assert stands_still(engine)
        assert goes_on(engine)
    assert stands_still(engine)


def test_a_part_of_a_host_call_pauses_no_other_guest(ticking: tuple[Runtime, CountingEngine]) -> None:
    runtime, engine = ticking
    control = Control("one", paused=runtime.paused)
    control.enter_wasm()
    with runtime.running("one"):
        with control.host_call():
            with control.host_call():
                assert stands_still(engine)
                with runtime.running("two"):
                    assert goes_on(engine)
            assert stands_still(engine)
        assert goes_on(engine)
    assert stands_still(engine)


def test_a_host_call_that_fails_is_over(ticking: tuple[Runtime, CountingEngine]) -> None:
    runtime, engine = ticking
    with runtime.running("guest"):
        with pytest.raises(ValueError, match="failed"), runtime.paused():
            raise ValueError("failed")
        assert goes_on(engine)
    assert stands_still(engine)
