"""The soak in short: real load and real kills lose no conversation, and all is given back; and how growth is judged."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent.parent / "scripts"))

from soaking.daemon import daemon
from soaking.held import Held, trends
from soaking.passers import REQUESTS
from soaking.shifts import TALKERS, Plan, soak

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
CLIENTS = len(TALKERS) + len(REQUESTS) + 1
THREADS, DESCRIPTORS = 2 * CLIENTS, 8
"""What there may be more of after a second shift: pools begin threads when so many of their tasks run at once."""


def test_kills_amid_mixed_load_lose_no_conversation_and_leave_nothing_behind(
    smollm2: Path, built_guest: Callable[[str], Path]
) -> None:
    for guest in ("persona", "terminal"):
        built_guest(guest)
    subprocess.run([sys.executable, SCRIPTS / "build-guests", "filetype"], check=True)
    with daemon() as running:
        found = asyncio.run(soak(running, Plan(shifts=2, shift_s=5.0, kill_every_s=4.0, silence_s=1.0)))
    assert found.losses == []
    assert found.kept == []
    assert found.counts["workers killed"]
    assert sum(number for what, number in found.counts.items() if what.startswith("turns of ")), found.counts
    first, last = [moment for moment in found.moments if moment.rests]
    assert last.threads <= first.threads + THREADS
    assert last.descriptors <= first.descriptors + DESCRIPTORS


def moments(daemon_kib: Callable[[int], int], minutes: int = 30) -> list[Held]:
    """Return one moment of rest for each minute."""
    return [Held(60.0 * minute, True, daemon_kib(minute), 0, 0, 20, 15) for minute in range(minutes)]


@pytest.mark.parametrize(
    ("daemon_kib", "flat"),
    [
        (lambda minute: 60_000, True),
        (lambda minute: 50_000 + min(minute, 10) * 3000, True),  # it warms up, and then is flat
        (lambda minute: 60_000 + (minute % 2) * 4000, True),
        (lambda minute: 60_000 + minute * 400, False),
        (lambda minute: 60_000 + minute * 400 + (minute % 2) * 4000, False),
    ],
)
def test_memory_that_grows_in_the_second_half_is_seen_through_its_ups_and_downs(
    daemon_kib: Callable[[int], int], flat: bool
) -> None:
    judged = {trend.name: trend for trend in trends(moments(daemon_kib))}
    assert judged["daemon_kib"].flat is flat
    assert judged["threads"].flat
    assert judged["descriptors"].flat


def test_what_was_seen_too_seldom_is_not_judged() -> None:
    assert trends(moments(lambda minute: 60_000 + minute * 4000, minutes=6)) == []
    assert trends([]) == []
