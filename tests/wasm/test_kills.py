"""The worker is killed over and over among many guests: no conversation is lost, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from promptd.backends.ggml import GgmlGraph
from promptd.chat import Message
from promptd.config import EngineSettings, GraphSettings, GuestSettings, Settings
from promptd.errors import RuntimeFailure
from promptd.wasm.host import Host
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdio

KILLS = 50
GUESTS = 16
TURNS = 2 * GUESTS
"""What all guests together may say between two kills, so that a new worker has little to prefill."""
ENGINE = EngineSettings(kv_tokens=8192, max_sequences=8, spill_memory=0)
"""Fewer sequence ids than guests, so that workers also die while they save and restore cells, and leave files."""
CONTEXT = 8192
REPLY = 8
LATEST_KILL_S = 0.06
"""After the first reply of a new worker; all turns take about as long."""


class Chatter:
    """A guest that goes on with one conversation, and what that has cost it."""

    def __init__(self, number: int, session: Session) -> None:
        self._session = session
        self._letters = 1 + number
        """What it says each time: so many single letters, which are a token each."""
        self.past = 1
        """Tokens of its conversation, of which BOS is the first."""
        self.turns = 0
        self.failures = 0

    def turn(self) -> bool:
        """Say something more; false when the worker died of it. The prompt is all that was said before, or it fails."""
        before = self._session.usage
        try:
            self._session.respond([Message("user", " ".join("a" * self._letters))])
        except RuntimeFailure as error:
            assert "was killed by SIGKILL" in str(error)
            self.failures += 1
            return False
        cost = self._session.usage - before
        self.past += self._letters
        assert (cost.prompt, cost.generated) == (self.past, REPLY)
        self.past += REPLY
        self.turns += 1
        return True


def held(spill: Path) -> tuple[int, int, int]:
    """Return how many threads, descriptors and folders of workers this process has, beside guests on their way out."""
    threads = sum(not thread.name.startswith("guest-") for thread in threading.enumerate())
    return threads, len(list(Path("/dev/fd").iterdir())), len(list(spill.iterdir()))


def test_fifty_kills_at_random_moments_among_sixteen_guests_lose_no_conversation_and_leave_nothing(
    tmp_path: Path, built_guest: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spill))
    model = write_tiny_model(tmp_path / "tiny.gguf", context=CONTEXT)
    endless = {"temperature": 0, "max_tokens": REPLY, "logit_bias": ((2, -100.0), (5, -100.0))}
    settings = Settings(
        engine=ENGINE,
        graphs={"chat": GraphSettings(model=f"file:{model}", template="none", **endless)},
        guests={"bench": GuestSettings(file=built_guest("bench"), graphs=("chat",))},
    )
    with closing(Host(settings)) as host:
        graph = host.graph("chat")
        assert isinstance(graph, GgmlGraph)
        sessions = [host.open_session("bench", stdio=Stdio(), identity=f"guest {n}") for n in range(GUESTS)]
        guests = [Chatter(number, session) for number, session in enumerate(sessions)]
        for guest in guests:
            assert guest.turn()
        before = held(spill)
        killed = kill_among(guests, graph)
        for guest in guests:
            assert guest.turn(), "its conversation goes on"
        stats = graph.stats()
        assert (stats.worker_starts, stats.sequences, stats.running, stats.queue) == (KILLS + 1, GUESTS, 0, 0)
        assert len(killed) == KILLS
        assert sum(guest.turns for guest in guests) > KILLS
        assert any(guest.failures for guest in guests), "some were killed in the middle of a reply"
        # What other tests have left may have gone meanwhile.
        assert all(now <= then for now, then in zip(held(spill), before, strict=True)), (held(spill), before)
        for session in sessions:
            session.close()
    assert list(spill.iterdir()) == []


def kill_among(guests: list[Chatter], graph: GgmlGraph) -> set[int]:
    """Let all guests talk at once while the worker is killed KILLS times; return the workers that were."""
    tickets = threading.Semaphore(0)
    answered = threading.Event()
    over = threading.Event()
    failures: list[BaseException] = []

    def chat(guest: Chatter) -> None:
        while tickets.acquire() and not over.is_set():
            try:
                if guest.turn():
                    answered.set()
            except BaseException as error:
                failures.append(error)
                answered.set()
                raise

    threads = [threading.Thread(target=chat, args=(guest,)) for guest in guests]
    for thread in threads:
        thread.start()
    chance = random.Random(10)
    killed: set[int] = set()
    while len(killed) < KILLS and not failures:
        answered.clear()
        tickets.release(TURNS)
        answered.wait()
        worker = graph.stats().worker_pid
        over.wait(chance.random() * LATEST_KILL_S)
        if worker is not None:
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
    over.set()
    tickets.release(GUESTS)
    for thread in threads:
        thread.join()
    assert failures == []
    return killed
