"""What promptd calls in wasmtime's C API itself: it works, and upstream does not wrap it yet."""

from __future__ import annotations

import gc
import threading

import pytest
from wasmtime import Config, Engine, Instance, Module, Store, WasiConfig, WasmtimeError

from promptd.wasm import unwrapped


@pytest.fixture
def engine() -> Engine:
    config = Config()
    config.epoch_interruption = True
    return Engine(config)


def loop(engine: Engine, store: Store) -> None:
    instance = Instance(store, Module(engine, '(module (func (export "run") (loop $l (br $l))))'), [])
    instance.exports(store)["run"](store)  # type: ignore[operator]


def test_a_guest_is_asked_about_at_every_tick_until_it_may_not_go_on(engine: Engine) -> None:
    store, asked = Store(engine), []

    def may_go_on() -> bool:
        asked.append(1)
        return len(asked) < 5

    def tick() -> None:
        while len(asked) < 5:
            engine.increment_epoch()
            threading.Event().wait(0.001)

    unwrapped.on_epoch(store, may_go_on)
    ticker = threading.Thread(target=tick)
    ticker.start()
    with pytest.raises(WasmtimeError, match="stopped by the host"):
        loop(engine, store)
    ticker.join()
    assert len(asked) == 5


def test_a_question_that_fails_stops_the_guest(engine: Engine) -> None:
    store = Store(engine)

    def may_go_on() -> bool:
        raise KeyboardInterrupt

    unwrapped.on_epoch(store, may_go_on)
    engine.increment_epoch()
    with pytest.raises(WasmtimeError, match="stopped by the host"):
        loop(engine, store)


def test_a_closed_store_asks_no_more(engine: Engine) -> None:
    before = len(unwrapped._deciders)
    store = Store(engine)
    unwrapped.on_epoch(store, lambda: True)
    assert len(unwrapped._deciders) == before + 1
    store.close()
    gc.collect()
    assert len(unwrapped._deciders) == before


def test_upstream_wraps_neither() -> None:
    assert not any("epoch" in name and "callback" in name for name in dir(Store))
    assert not any("stdin" in name and "bytes" in name for name in dir(WasiConfig))
