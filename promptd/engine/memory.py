"""Keeps the loaded models within a budget of memory: before one is loaded that would not fit, idle ones are unloaded,
the least recently used first.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from promptd.errors import Busy, TooLarge

_CGROUP = Path("/sys/fs/cgroup")
_SETTLE_S = 1.0
"""How long a model that was used just now, or whose worker is ending, is waited for."""
_POLL_S = 0.02


class Tenant(Protocol):
    """An engine, as the budget sees it."""

    path: Path

    @property
    def last_used(self) -> float: ...
    def unload_if_idle(self) -> bool: ...


@dataclass(eq=False)
class Claim:
    """The memory of one worker, in bytes, from before its start to its end."""

    tenant: Tenant
    model: int
    kv: int
    limit: int | None

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.model + self.kv


class MemoryBudget:
    """The claims of all workers that share memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: set[Claim] = set()

    def claim(self, tenant: Tenant, *, model: int, kv: int, limit: int | None) -> Claim:
        """Make room for a worker of so many bytes, and take it.

        `limit` None is that of the others, since models that guests bring come without; where they have none, it is
        what the machine has available, and a model that is alone is loaded then however large it is.
        Raises Busy while models that are in use take the room, TooLarge where there is not that much at all.
        """
        claim = Claim(tenant, model, kv, limit)
        self._make_room(claim, started=False)
        return claim

    def settle(self, claim: Claim, *, model: int, kv: int) -> None:
        """Correct a claim to what the loaded model takes; raises as `claim`."""
        claim.model, claim.kv = model, kv
        self._make_room(claim, started=True)

    def release(self, claim: Claim) -> None:
        """Give back what a worker took that has ended. Idempotent."""
        with self._lock:
            self._claims.discard(claim)

    def _make_room(self, claim: Claim, *, started: bool) -> None:
        """Unload others until `claim` fits; the KV cache of a worker that is `started` is not available any more."""
        patience = time.monotonic() + _SETTLE_S
        while True:
            with self._lock:
                others = {other for other in self._claims if other.tenant is not claim.tenant}
                limits = [other.limit for other in others if other.limit is not None]
                limit = max(limits, default=None) if claim.limit is None else claim.limit
                taken = sum(other.kv for other in others) + (claim.kv if started else 0)
                budget = limit if limit is not None else available_memory() + taken
                if claim.bytes + sum(other.bytes for other in others) <= budget or (limit is None and not others):
                    if not started:  # one that is may have ended meanwhile
                        self._claims.add(claim)
                    return
            name = claim.tenant.path.name
            if limit is not None and claim.bytes > limit:
                raise TooLarge(
                    f"{name} takes {_megabytes(claim.bytes)} of memory, and all models together may have"
                    f" {_megabytes(limit)}; raise [engine] memory, or set a smaller kv-tokens"
                )
            by_age = sorted(others, key=lambda other: other.tenant.last_used)
            if any(other.tenant.unload_if_idle() for other in by_age):
                continue
            if time.monotonic() > patience:
                used = ", ".join(sorted(other.tenant.path.name for other in others))
                raise Busy(
                    f"there is no memory for {name} ({_megabytes(claim.bytes)} of {_megabytes(budget)}) while"
                    f" {used} is in use; try again later, or raise [engine] memory"
                )
            time.sleep(_POLL_S)


def available_memory() -> int:
    """Return bytes that could be used without swapping: of the machine, or of the control group if that has less."""
    try:
        available = _fields(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        files = _fields(_CGROUP / "memory.stat")
        used -= files["inactive_file"] + files["active_file"]  # cached files make way for what needs their memory
        available = min(available, limit - used)
    except (OSError, KeyError, ValueError):  # no control group, or "max"
        pass
    return max(0, available)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _fields(path: Path) -> dict[str, int]:
    """Return the first number after the name that begins each line."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
