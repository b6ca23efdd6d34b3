"""Makes glibc give freed memory back to the system, which it otherwise keeps for each thread that ever needed much.

Each call of a guest has a thread, and each thread one of glibc's arenas, of which there are 8 for each core. Whenever a
large block is freed, glibc raises by its size what it maps apart, and what it keeps at the end of every arena: up to 32
and 64 MiB. Measured with 2 cores and guests that pass tensors of megabytes: a daemon held 415 MiB after 20 seconds, and
66 with the thresholds fixed. Setting a threshold is what ends the raising (mallopt(3)).
"""

from __future__ import annotations

import ctypes
import os

THRESHOLD = 1024**2
"""Bytes from which a block is mapped, and given back when it is freed; also what an arena may keep free at its end."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def give_freed_memory_back() -> None:
    """Fix the thresholds of this process, unless its environment says how memory is allocated, or it has no glibc."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, THRESHOLD)
