"""Whether this machine's cores are taken, by what Linux's scheduler counts; unknown elsewhere.

https://docs.kernel.org/scheduler/sched-stats.html (/proc/PID/schedstat), proc_loadavg(5)
"""

from __future__ import annotations

import time
from pathlib import Path

_TASKS = Path("/proc/self/task")
_LOAD = Path("/proc/loadavg")
_NANOSECONDS = 1e-9


class RunQueueWait:
    """The time that the threads of this process wait for a core."""

    def __init__(self) -> None:
        self._threads: dict[str, int] = {}
        """Nanoseconds by thread; threads come and go."""
        self._total = 0

    def seconds(self) -> float | None:
        """Return for how long all threads, together, were ready to run and had no core to run on; None if unknown."""
        threads = {}
        try:
            for task in _TASKS.iterdir():
                try:
                    threads[task.name] = int((task / "schedstat").read_bytes().split()[1])
                except FileNotFoundError:
                    if task.exists():
                        return None
        except (OSError, ValueError, IndexError):
            return None
        self._total += sum(waited - self._threads.get(thread, 0) for thread, waited in threads.items())
        self._threads = threads
        return self._total * _NANOSECONDS


LOOKS = 5
LOOK_APART_S = 0.001


def runnable() -> int:
    """Return how many threads of the machine run or wait for a core all the time now, without the one that asks; 0 if
    unknown.

    It takes some milliseconds: many a thread runs for less, and is no neighbour to reckon with.
    """
    least = _runnable()
    for _ in range(LOOKS - 1):
        time.sleep(LOOK_APART_S)
        least = min(least, _runnable())
    return least


def _runnable() -> int:
    try:
        return max(0, int(_LOAD.read_text(encoding="ascii").split()[3].split("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return 0
