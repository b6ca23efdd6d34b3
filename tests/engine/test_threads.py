from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from promptd.chat import Message
from promptd.config import EngineSettings
from promptd.engine.client import Engine
from promptd.engine.loading import physical_cores
from promptd.engine.options import Sampling
from promptd.engine.run_queue import RunQueueWait
from promptd.engine.threads import SUSTAINED_WINDOWS, WINDOW_S, ThreadController


class Machine:
    """Steps as a machine makes them: what one takes, and for how long threads wait for a core, by their number."""

    def __init__(self, cores: int, *, sees_waiting: bool = True) -> None:
        self.seconds: dict[int, float] = {}
        self.share = 0.0
        self._waited = 0.0
        self._sees_waiting = sees_waiting
        self.controller = ThreadController(cores, lambda: self._waited if self._sees_waiting else None)

    def run(self, windows: int, width: int = 1) -> list[int]:
        """Make steps for so many windows; return the numbers of threads they were made by, each once in a row."""
        controller = self.controller
        used = [controller.threads]
        for _ in range(windows):
            seconds = 0.0
            while seconds < WINDOW_S:
                step = self.seconds[controller.threads] * width
                self._waited += self.share * step * controller.threads
                seconds += step
                controller.observe(width, step)
            if controller.threads != used[-1]:
                used.append(controller.threads)
        return used


QUIET = {1: 0.0111, 2: 0.008}
BUSY = {1: 0.0132, 2: 0.2}
"""Seconds of a step on two cores by threads, as DESIGN measured them: quiet, and with two busy neighbours."""


def test_a_quiet_machine_keeps_all_threads() -> None:
    machine = Machine(2)
    machine.seconds = QUIET
    assert machine.run(windows=50) == [2]
    assert machine.controller.changes == 0


def test_neighbours_make_it_one_thread_and_their_end_two_again() -> None:
    machine = Machine(2)
    machine.seconds = QUIET
    machine.run(windows=5)
    machine.seconds, machine.share = BUSY, 0.5
    assert machine.run(windows=3) == [2, 1]
    assert machine.run(windows=20) == [1]
    machine.seconds, machine.share = QUIET, 0.0
    assert machine.run(windows=SUSTAINED_WINDOWS + 1) == [1, 2]
    assert machine.run(windows=20) == [2]


def test_one_busy_window_changes_nothing() -> None:
    machine = Machine(2)
    machine.seconds = QUIET
    for _ in range(10):
        machine.share = 0.3
        machine.run(windows=1)
        machine.share = 0.0
        machine.run(windows=2)
    assert machine.controller.changes == 0


def test_fewer_threads_that_are_no_faster_are_undone_and_tried_less_and_less() -> None:
    machine = Machine(2)
    machine.seconds, machine.share = {1: 0.02, 2: 0.015}, 0.4
    assert machine.run(windows=4) == [2, 1, 2]
    early = machine.controller.changes
    machine.run(windows=40)
    later = machine.controller.changes
    machine.run(windows=40)
    assert later - early > machine.controller.changes - later > 0
    assert machine.controller.threads == 2


def test_the_number_goes_down_as_far_as_it_helps() -> None:
    machine = Machine(8)
    machine.seconds = {8: 0.1, 6: 0.05, 5: 0.03, 4: 0.04, 3: 0.06, 2: 0.08, 1: 0.1}
    machine.share = 0.3
    machine.run(windows=20)
    assert machine.controller.threads == 5


def test_a_wider_batch_does_not_look_like_neighbours() -> None:
    machine = Machine(2, sees_waiting=False)
    machine.seconds = QUIET
    for width in (1, 8, 1, 32, 64, 300, 1):
        machine.run(windows=3, width=width)
    assert machine.controller.changes == 0


def test_where_waiting_cannot_be_seen_slow_steps_tell_of_neighbours() -> None:
    machine = Machine(2, sees_waiting=False)
    machine.seconds = QUIET
    machine.run(windows=5)
    machine.seconds = BUSY
    assert machine.run(windows=3) == [2, 1]


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    burn = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in burn:
            process.kill()
            process.wait()


@pytest.mark.skipif(physical_cores() == 1, reason="on one core there is one thread, whatever its neighbours do")
@pytest.mark.skipif(RunQueueWait().seconds() is None, reason="this system does not tell of threads that wait for cores")
def test_busy_neighbours_change_the_number_of_threads_of_a_worker(smollm2: Path) -> None:
    with Engine(smollm2, EngineSettings(kv_tokens=2048)) as engine, busy_neighbours(2 * physical_cores()):
        reply = engine.conversation("guest").send(
            [Message("user", "Tell me a long story.")], Sampling(max_tokens=1500, ignore_end=True, seed=1)
        )
        for _ in reply:
            if engine.stats().thread_changes:
                break
        changed = engine.stats()
        reply.cancel()
    assert changed.thread_changes > 0
    assert 1 <= changed.threads <= engine.info.threads


def test_a_number_the_operator_has_fixed_stays(engine: Engine) -> None:
    assert engine.stats().threads == engine.info.threads == 1
    assert engine.stats().thread_changes == 0
