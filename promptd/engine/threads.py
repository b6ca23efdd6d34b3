"""How many threads a step is computed by: all cores while they are free, fewer while others use them.

The threads of a step wait for each other hundreds of times in it. One that does not get its core, because a guest or
another program is on it, holds up all; fewer threads then make faster steps. Which number is best depends on the model,
the width of the batch and the neighbours, so it is tried: while threads wait for cores, fewer; when they get them
again, more; and what made steps slower is undone, and tried again later and later.
"""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 0.2
"""Seconds of steps that are judged together."""
BUSY_SHARE = 0.15
"""Threads that wait for a core for this part of the time have neighbours: a half is usual with as many busy neighbours
as cores, a hundredth on a quiet machine."""
CALM_SHARE = 0.05
SUSTAINED_WINDOWS = 2
"""Windows in a row that make neighbours, or their absence, more than a moment."""
COLLAPSE = 3.0
"""If steps take this many times their best, one window is enough."""
SLOW = 1.5
"""Where waiting for cores cannot be seen, steps that take this many times their best say there are neighbours."""
GAIN = 0.9
"""A number of threads is kept if its steps take at most this part of the time of those before."""
MAX_PATIENCE = 64
"""Windows until another number is tried again after that has failed often; the first time it is one."""
BEST_DRIFT = 1.002
"""What a best grows by with each step, so that it follows contexts that fill up."""
EXACT_TOKENS = 32
"""Steps of up to so many tokens are compared with steps of the same number, larger ones with some of about as many."""


class ThreadController:
    """Decides the number of threads from how long steps take."""

    def __init__(self, most: int, waited: Callable[[], float | None]) -> None:
        """`waited` tells the seconds all threads of this process have waited for a core so far, None if unknown."""
        self._most = most
        self._waited = waited
        self._best: dict[int, float] = {}
        """Least seconds of a step, by about how many tokens were in it."""
        self._seconds = 0.0
        self._best_seconds = 0.0
        self._waited_before = waited()
        self._busy = 0
        self._calm = 0
        self._since_trial = 0
        self._patience = 1
        self._before: tuple[int, float] | None = None
        """While a number is tried: the one before it, and how many times their best its steps took."""
        self.threads = most
        self.changes = 0
        """How often the number was changed."""

    def observe(self, tokens: int, seconds: float) -> None:
        """Take in a step of `tokens` tokens; `threads` may be another number after it."""
        shape = tokens if tokens <= EXACT_TOKENS else EXACT_TOKENS * (tokens // EXACT_TOKENS)
        if self._before is None:
            self._best[shape] = min(self._best.get(shape, seconds) * BEST_DRIFT, seconds)
        best = self._best.get(shape)
        if best is None:  # what is tried can only be compared where there is something to compare with
            return
        self._seconds += seconds
        self._best_seconds += best
        if self._seconds >= WINDOW_S:
            waited = self._waited()
            share = None
            if waited is not None and self._waited_before is not None:
                share = (waited - self._waited_before) / (self._seconds * self.threads)
            slowdown = self._seconds / self._best_seconds
            self._seconds = self._best_seconds = 0.0
            self._waited_before = waited
            self._judge(slowdown, share)

    def _judge(self, slowdown: float, share: float | None) -> None:
        """Choose the number of threads for the next window after one of this `slowdown` against the best steps."""
        busy = slowdown >= SLOW if share is None else share >= BUSY_SHARE
        calm = slowdown < SLOW if share is None else share <= CALM_SHARE
        if calm and self._calm == 0:
            self._patience = 1
        self._busy = self._busy + 1 if busy else 0
        self._calm = self._calm + 1 if calm else 0
        self._since_trial += 1
        if self._before is not None:
            self._conclude(*self._before, slowdown)
            return
        if self._since_trial < self._patience:
            return
        if self.threads > 1 and (self._busy >= SUSTAINED_WINDOWS or (busy and slowdown >= COLLAPSE)):
            self._try(self.threads - max(1, self.threads // 4), slowdown)
        elif self.threads < self._most and (self._calm >= SUSTAINED_WINDOWS or self._since_trial >= MAX_PATIENCE):
            self._try(min(self._most, self.threads + max(1, self.threads // 3)), slowdown)

    def _try(self, threads: int, slowdown: float) -> None:
        self._before = (self.threads, slowdown)
        self._set(threads)

    def _conclude(self, threads: int, slowdown: float, tried: float) -> None:
        """Keep the number that was tried instead of `threads`, or go back to that."""
        self._before = None
        self._since_trial = 0
        if tried <= GAIN * slowdown:
            self._patience = 1
        else:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
            self._set(threads)

    def _set(self, threads: int) -> None:
        self.threads = threads
        self.changes += 1
