"""Rows about many guests: what an idle one costs, and whether turns grow dearer with their number."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import mean

from benchmarks.guests import Guests, close, guests, say, together
from benchmarks.rows import Bench, Measured, Row
from promptd.config import EngineSettings
from promptd.wasm.session import Session

MB = 1e6
AT_ONCE = 16
TOKENS = 8
PORTION = 64
"""So many of many guests take their turns until the 16 do again."""


def _alive(bench: Bench) -> int:
    return 200 if bench.quick else 1000


def _turns(sessions: list[Session], text: str) -> float:
    """Let all take a turn, AT_ONCE at a time; return the seconds each has cost."""
    costs = []
    for begin in range(0, len(sessions), AT_ONCE):
        group = sessions[begin : begin + AT_ONCE]
        costs.append(together([partial(say, session, text) for session in group])[0] / len(group))
    return mean(costs)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _bytes(host: Guests) -> int:
    """Return the resident bytes of this process and of the worker, beyond saved KV cells."""
    stats = host.stats()
    return _resident() + stats.rss - stats.spill_memory


def _memory(bench: Bench) -> Measured:
    """Let guests take a turn each and stay alive."""
    with guests(bench, max_tokens=TOKENS) as host:
        warm = host.open(AT_ONCE)
        _turns(warm, "Once upon a time")
        before = _bytes(host)
        sessions = host.open(_alive(bench), begin=AT_ONCE)
        _turns(sessions, "Once upon a time")
        each = (_bytes(host) - before) / len(sessions)
        close(warm + sessions)
    return Measured([each / MB], [1.0], "MB", {"alive": len(sessions)})


def _cost(bench: Bench) -> Measured:
    """Compare a turn among many guests with a turn among 16 of another host, now the ones and now the others, and show
    how it grows between.
    """
    counts = [count for count in (64, 256, 1000) if count <= max(256, _alive(bench))]
    engine = EngineSettings(max_sequences=64)
    ratios: dict[int, float] = {}
    with (
        guests(bench, max_tokens=TOKENS, engine=engine) as few,
        guests(bench, max_tokens=TOKENS, engine=engine) as many,
    ):
        opened = _among_few(few, 0)[1]
        sessions: list[Session] = []
        for count in counts:
            added = many.open(count - len(sessions), begin=len(sessions))
            _turns(added, "Once upon a time")
            sessions += added
            among_many, among_few = [], []
            for begin in range(0, count, PORTION):
                cost, opened = _among_few(few, opened)
                among_few.append(cost)
                among_many.append(_turns(sessions[begin : begin + PORTION], " and"))
            ratios[count] = mean(among_many) / mean(among_few)
        close(sessions)
    counters = {f"times_16_at_{count}": ratio for count, ratio in ratios.items()}
    return Measured([mean(among_many)], [mean(among_few)], "s", counters)


def _among_few(host: Guests, begin: int) -> tuple[float, int]:
    """Return the seconds of a second turn among 16 guests that are alive alone, and how many were opened so far."""
    sessions = host.open(AT_ONCE, begin=begin)
    _turns(sessions, "Once upon a time")
    cost = _turns(sessions, " and")
    close(sessions)
    return cost, begin + AT_ONCE


ROWS = [
    Row(
        "idle-memory", "1,000 guests alive (--quick: 200): memory of each beyond its KV", "1 MB", 1.0, "lower", _memory
    ),
    Row("many-turns", "a turn among 1,000 guests (--quick: 256)", "a turn among 16", 1.15, "lower", _cost),
]
