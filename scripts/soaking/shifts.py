"""The soak: shifts of load one after the other, with kills and a silence in each, and a rest after each."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2

from soaking.daemon import Daemon
from soaking.held import Held, Trend, hold, runs_language_model, since, trends, workers
from soaking.passers import REQUESTS, ask, leave
from soaking.seen import Seen
from soaking.talker import COMMAND, ECHO, GRAPH, HANDLER, Talker

TALKERS = (GRAPH, HANDLER, GRAPH, COMMAND, ECHO, GRAPH, HANDLER)
SETTLE_S = 60.0
"""How long what was closed may take to be given back."""
LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Plan:
    """How long, and how hard."""

    shifts: int
    shift_s: float = 55.0
    """With its rest, a shift takes about a minute."""
    kill_every_s: float = 25.0
    """One worker is killed about so often; as rarely as that it counts as no crash loop."""
    silence_s: float = 4.0
    """Amid each shift nobody asks for so long, and models are unloaded under open sessions."""


@dataclass
class Found:
    """What came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    moments: list[Held] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    """Conversations that were lost, and answers that were wrong."""
    kept: list[str] = field(default_factory=list)
    """What was not given back when all was closed."""

    @property
    def trends(self) -> list[Trend]:
        """How what is held went in the second half."""
        return trends(self.moments)

    @property
    def problems(self) -> list[str]:
        """Why the soak failed; empty when it passed."""
        grown = [
            f"{trend.name} grew by {trend.growth:.0f} in the second half, and may by {trend.limit:.0f}"
            for trend in self.trends
            if not trend.flat
        ]
        asked = [request.name for request in REQUESTS] + [f"turns of {' '.join(*k.target.items())}" for k in TALKERS]
        never = [f"there were no {what}" for what in dict.fromkeys(asked) if not self.counts[what]]
        return [*self.losses, *self.kept, *grown, *never]


async def soak(daemon: Daemon, plan: Plan) -> Found:
    """Load a daemon as planned."""
    found, began, chance = Found(), time.monotonic(), random.Random(2026)
    for _ in range(plan.shifts):
        async with httpx2.AsyncClient(base_url=daemon.url, timeout=120, trust_env=False) as http:
            seen = Seen(plan.shift_s, found.counts, found.losses)
            await asyncio.gather(
                *(Talker(http, kind, number, seen).talk() for number, kind in enumerate(TALKERS)),
                *(ask(http, request, seen) for request in REQUESTS),
                leave(http, seen),
                _kill(daemon, plan, seen, chance),
                _watch(daemon, began, found, seen),
                _fall_silent(plan, seen),
            )
        await _rest(daemon, began, found)
    return found


async def _kill(daemon: Daemon, plan: Plan, seen: Seen, chance: random.Random) -> None:
    while True:
        await seen.pause(plan.kill_every_s * chance.uniform(0.7, 1.3))
        if not seen.on:
            return
        if running := list(workers(daemon.pid)):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(running), signal.SIGKILL)
                seen.count_kill()


async def _watch(daemon: Daemon, began: float, found: Found, seen: Seen) -> None:
    while seen.on:
        found.moments.append(hold(daemon.pid, since(began), rests=False))
        await seen.pause(LOOK_EVERY_S)


async def _fall_silent(plan: Plan, seen: Seen) -> None:
    await seen.pause(plan.shift_s / 2)
    await seen.silence(plan.silence_s)
    seen.count("silences")


async def _rest(daemon: Daemon, began: float, found: Found) -> None:
    """Wait until nothing is held any more, and look."""
    end = time.monotonic() + SETTLE_S
    async with httpx2.AsyncClient(base_url=daemon.url, timeout=120, trust_env=False) as http:
        while (kept := _kept((await http.get("/metrics")).text)) and time.monotonic() < end:
            await asyncio.sleep(0.2)
    while (running := list(filter(runs_language_model, workers(daemon.pid)))) and time.monotonic() < end:
        await asyncio.sleep(0.2)
    found.kept += [f"not given back: {gauge}" for gauge in kept] + [f"worker {each} still runs" for each in running]
    found.moments.append(hold(daemon.pid, since(began), rests=True))
    found.counts["rests"] += 1


def _kept(metrics: str) -> list[str]:
    """Return the gauges of what sessions hold that are not zero."""
    gauges = re.findall(r"^promptd_(?:sessions|guest_instances|engine_conversations\{.*?\}) .*$", metrics, re.MULTILINE)
    return [gauge for gauge in gauges if not gauge.endswith(" 0.0")]
