"""Which crashes of workers keep another from being started."""

from __future__ import annotations

import signal

import pytest

from promptd.engine import crashes
from promptd.engine.crashes import KILLS_OF_A_CRASH, MAX_CRASHES, Crashes, cause_of, was_killed
from promptd.errors import RuntimeFailure


def crashed(times: int, *, killed: bool = False) -> Crashes:
    history = Crashes("its worker")
    for _ in range(times):
        history.add("was killed by SIGSEGV", killed=killed)
    return history


def test_pauses_grow_until_no_worker_is_started_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [crashed(times).pause for times in range(MAX_CRASHES)] == list(crashes.BACK_OFF_S)
    crashed(MAX_CRASHES - 1).check()
    history = crashed(MAX_CRASHES)
    with pytest.raises(
        RuntimeFailure,
        match=r"^its worker ended 3 times within 30 s, and was killed by SIGSEGV at last;"
        r" it is started again in \d+ s at the earliest$",
    ):
        history.check()
    monkeypatch.setattr(crashes, "CRASH_WINDOW_S", 0.0)
    history.check()
    assert not history.any


def test_work_that_was_done_shows_that_the_model_is_usable() -> None:
    history = crashed(MAX_CRASHES)
    history.clear()
    history.check()
    assert history.pause == 0


def test_what_kills_from_outside_counts_less() -> None:
    many = MAX_CRASHES * KILLS_OF_A_CRASH
    crashed(many - 1, killed=True).check()
    for history in (crashed(many, killed=True), crashed(2 * many, killed=True)):
        with pytest.raises(RuntimeFailure):
            history.check()
    mixed = crashed(MAX_CRASHES - 1)
    for _ in range(KILLS_OF_A_CRASH - 1):
        mixed.add("was killed by SIGKILL", killed=True)
    mixed.check()
    mixed.add("was killed by SIGKILL", killed=True)
    with pytest.raises(RuntimeFailure, match="SIGKILL at last"):
        mixed.check()


def test_how_a_process_ended_is_the_rest_of_a_sentence() -> None:
    assert cause_of(-signal.SIGABRT, "GGML_ASSERT failed") == "was killed by SIGABRT (GGML_ASSERT failed)"
    assert cause_of(-signal.SIGABRT, "  what():  std::bad_alloc") == "was killed by SIGABRT (out of memory)"
    assert cause_of(-63) == "was killed by signal 63"
    assert cause_of(1) == "ended with status 1"
    assert was_killed(-signal.SIGKILL)
    assert not was_killed(-signal.SIGSEGV)
    assert not was_killed(signal.SIGKILL)
