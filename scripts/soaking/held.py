"""What a daemon and its workers hold at one moment, and whether that grows: a line fitted through many moments."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ENOUGH = 6
"""Moments that a line can be fitted through."""


@dataclass(frozen=True)
class Held:
    """One moment."""

    seconds: float
    """Since the beginning."""
    rests: bool
    """Whether no session was open, no request answered and no model loaded."""
    daemon_kib: int
    workers_kib: int
    workers: int
    threads: int
    descriptors: int


@dataclass(frozen=True)
class Trend:
    """How something went in the second half of the time."""

    name: str
    level: float
    """Its mean."""
    growth: float
    """How much higher the fitted line ends than it begins."""
    limit: float
    """What that may be at most."""

    @property
    def flat(self) -> bool:
        """Whether it grew by no more than it may."""
        return self.growth <= self.limit


KIB_A_MINUTE = 150
"""What the daemon's memory may grow by; what allocators keep differs from time to time by a megabyte or two."""
HANDLES = 3
"""Threads or descriptors that there may be more of at the end; pools begin threads when they first need them."""


def hold(daemon: int, seconds: float, *, rests: bool) -> Held:
    """Look at a daemon's process and its workers' now."""
    found = [kib for worker in workers(daemon) if (kib := written_kib(worker))]
    (threads,) = re.findall(r"Threads:\s+(\d+)", Path(f"/proc/{daemon}/status").read_text())
    descriptors = len(os.listdir(f"/proc/{daemon}/fd"))  # noqa: PTH208 - there may be thousands
    return Held(seconds, rests, written_kib(daemon), sum(found), len(found), int(threads), descriptors)


def workers(process: int) -> Iterator[int]:
    """Return the processes that a daemon's process has started, and those that they have."""
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from workers(child)


def runs_language_model(worker: int) -> bool:
    """Return whether a worker has a GGUF model, which is unloaded when nobody asks; an ONNX model stays."""
    with suppress(OSError):
        return b".gguf" in Path(f"/proc/{worker}/cmdline").read_bytes()
    return False


def written_kib(process: int) -> int:
    """Return the KiB that are a process's own because it wrote them; 0 when it has gone.

    Pages of files that it alone maps at the moment do not count: they are another's too as soon as a worker starts.
    """
    with suppress(OSError):
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        return sum(map(int, re.findall(r"^(?:Private_Dirty|Swap):\s+(\d+)", rollup, re.MULTILINE)))
    return 0


def trends(moments: Sequence[Held]) -> list[Trend]:
    """Return the trends of the daemon at rest in the second half; none where there are too few moments.

    Of its workers there are none: models are unloaded in each rest, so that a worker lives for a minute at most.
    """
    if not moments:
        return []
    later = [moment for moment in moments if moment.seconds >= moments[-1].seconds / 2]
    at_rest = [moment for moment in later if moment.rests]
    minutes = (later[-1].seconds - later[0].seconds) / 60
    rows = (
        ("daemon_kib", KIB_A_MINUTE * minutes),
        ("threads", HANDLES),
        ("descriptors", HANDLES),
    )
    return [_trend(name, at_rest, limit) for name, limit in rows] if len(at_rest) >= ENOUGH else []


def _trend(name: str, moments: Sequence[Held], limit: float) -> Trend:
    """Fit a line by least squares."""
    times = [moment.seconds for moment in moments]
    values = [float(getattr(moment, name)) for moment in moments]
    middle, level = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (value - level) for at, value in zip(times, values, strict=True)) / spread
    return Trend(name, level, slope * (times[-1] - times[0]), limit)


def since(began: float) -> float:
    """Return the seconds since a `time.monotonic()` value."""
    return round(time.monotonic() - began, 1)
