"""Rows about speculation: a rewrite, which repeats its prompt, and open-ended text, which does not."""

from __future__ import annotations

from benchmarks.decode import guest_rate
from benchmarks.guests import Guests, Marks, close, guests, say
from benchmarks.rows import Bench, Measured, Row
from promptd.config import EngineSettings

TEXT = (
    "The old harbour wakes before the sun. Fishermen carry their nets along the stone pier, and the first boats leave "
    "while the lamps of the market are still burning. By noon the square is full of people who buy bread, fish and "
    "flowers, and in the evening the same people sit by the water and talk about the day."
)
REWRITE = f"Text: {TEXT}\nThe same text once more: {TEXT}\nThe same text once more:"
OFF = EngineSettings(speculation="off")


def _rewrite_rate(host: Guests, number: int) -> float:
    """Return the tokens a second of one guest from the first of its reply on."""
    (session,) = host.open(1, begin=number)
    marks = Marks()
    before = host.stats().generated_tokens
    say(session, f"!stream {REWRITE}", marks.mark)
    close([session])
    tokens = host.stats().generated_tokens - before
    return (tokens - 1) / (marks.times[-1] - marks.times[0])


def _rewrite(bench: Bench) -> Measured:
    ours, theirs = [], []
    with guests(bench, max_tokens=64) as drafting, guests(bench, max_tokens=64, engine=OFF) as plain:
        for pair in range(1 + bench.pairs):
            ours.append(_rewrite_rate(drafting, pair))
            theirs.append(_rewrite_rate(plain, pair))
        counters = _counters(drafting)
    return Measured(ours[1:], theirs[1:], "tokens/s", counters)


def _open_ended(bench: Bench) -> Measured:
    count, tokens = 16, 32 if bench.quick else 64
    ours, theirs = [], []
    with guests(bench, max_tokens=tokens) as drafting, guests(bench, max_tokens=tokens, engine=OFF) as plain:
        for pair in range(bench.pairs):
            ours.append(guest_rate(drafting, count, tokens, pair))
            theirs.append(guest_rate(plain, count, tokens, pair))
        counters = _counters(drafting)
    return Measured(ours, theirs, "tokens/s", counters)


def _counters(host: Guests) -> dict[str, float]:
    stats = host.stats()
    return {"drafted": stats.drafted_tokens, "accepted": stats.accepted_tokens}


ROWS = [
    Row("rewrite", "a rewrite, one guest, with prompt lookup", "plain decode", 1.3, "higher", _rewrite),
    Row("open-ended", "16 guests on open-ended text, with prompt lookup", "plain decode", 0.98, "higher", _open_ended),
]
