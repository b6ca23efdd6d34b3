"""Real wasm guests on a real model, in this process and its worker, as `promptd serve` has them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier

from benchmarks.rows import Bench
from promptd.backends.ggml import GgmlGraph
from promptd.chat import Message
from promptd.config import EngineSettings, GraphSettings, GuestSettings, Settings
from promptd.engine.statistics import EngineStats
from promptd.wasm.host import Host
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdin, Stdio

SMOLLM2_ENDS = ((0, -100.0), (2, -100.0), (4, -100.0))
"""Biases that keep SmolLM2 from ending, so that all replies have the same length, as with llama-server's ignore_eos."""

VOCABULARY = (
    *("river", "stone", "window", "market", "garden", "letter", "winter"),
    *("summer", "bridge", "lantern", "harbour", "field", "song", "table"),
)

BURN = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'
"""A guest that uses all the processor it gets."""

SETTLE_S = 0.3
"""After a program that was measured has ended, until the next is."""


class Guests:
    """A host with the guest `bench` and the graphs `chat` and `echo`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        graph = host.graph("chat")
        assert isinstance(graph, GgmlGraph)
        self.graph = graph

    def open(self, count: int, begin: int = 0) -> list[Session]:
        """Start so many instances, each a guest of its own to the engine."""
        return [
            self.host.open_session("bench", stdio=Stdio(Stdin.LINES), identity=f"bench-{begin + number}")
            for number in range(count)
        ]

    @contextlib.contextmanager
    def burning(self, count: int) -> Iterator[None]:
        """Let so many guests loop until the block ends."""
        sessions = [self.host.open_session("burn", stdio=Stdio(), identity=f"burn-{number}") for number in range(count)]
        with ThreadPoolExecutor(count) as pool:
            for session in sessions:
                pool.submit(session.run)
            try:
                yield
            finally:
                close(sessions)

    def stats(self) -> EngineStats:
        """Return the engine's counters."""
        return self.graph.stats()


@contextlib.contextmanager
def guests(bench: Bench, *, engine: EngineSettings | None = None, **graph: object) -> Iterator[Guests]:
    """Run a host until the block ends; replies are greedy, and of exactly `max_tokens`."""
    chat = {"model": f"file:{bench.model}", "template": "none", "temperature": 0, "logit_bias": SMOLLM2_ENDS, **graph}
    with tempfile.TemporaryDirectory() as folder:
        burn = Path(folder) / "burn.wat"
        burn.write_text(BURN)
        settings = Settings(
            engine=engine or EngineSettings(),
            graphs={"chat": GraphSettings.model_validate(chat), "echo": GraphSettings(model="echo")},
            guests={
                "bench": GuestSettings(file=bench.guest, graphs=("chat", "echo"), memory=4 * 1024**2),
                "burn": GuestSettings(file=burn),
            },
        )
        with contextlib.closing(Host(settings)) as host:
            yield Guests(host)


class Marks:
    """When the pieces of one reply came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def mark(self, _piece: str = "") -> None:
        """Take one."""
        self.times.append(time.perf_counter())

    def gaps(self, begin: float, end: float) -> list[float]:
        """Return the gaps between pieces that ended within the given time."""
        return [later - earlier for earlier, later in pairwise(self.times) if begin <= later <= end]


def say(session: Session, text: str, partial: Callable[[str], None] | None = None) -> float:
    """Send a guest one message; return the seconds until it has answered."""
    began = time.perf_counter()
    session.respond([Message("user", text)], partial)
    return time.perf_counter() - began


def together(tasks: Sequence[Callable[[], object]]) -> tuple[float, list[object]]:
    """Run all tasks at once, each on a thread; return the seconds until the last has ended, and what they returned."""
    barrier = Barrier(len(tasks) + 1)

    def run(task: Callable[[], object]) -> object:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(run, task) for task in tasks]
        barrier.wait()
        began = time.perf_counter()
        results = [future.result() for future in futures]
        return time.perf_counter() - began, results


def close(sessions: Sequence[Session]) -> None:
    """End all instances."""
    for session in sessions:
        session.close()


def words(count: int, seed: int) -> str:
    """Return a text of so many words that begins unlike that of every other seed."""
    picked = (VOCABULARY[(index * 7 + seed * (index + 3)) % len(VOCABULARY)] for index in range(count))
    return f"{seed} {' '.join(picked)}."
