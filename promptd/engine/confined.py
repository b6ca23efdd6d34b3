"""Runs a function on what a stranger has sent in a forked process with little time and memory, and takes its answer.

The process that calls this waits meanwhile, so the time is short. Forking a process that has a model loaded takes a
millisecond or two, since its memory is shared until it is written to.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable

CPU_SECONDS = 0.25
MEMORY = 512 * 1024**2
"""Bytes of address space beyond those the process has."""

_REASON_CHARACTERS = 200


class Refused(Exception):
    """The function raised; the message is that of its exception, or that it takes too much."""


def confined(work: Callable[[], bytes], most: int) -> bytes:
    """Return what `work` returns, at most `most` bytes; raises Refused."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os._exit(_answer(work, most, write))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise Refused(said.decode("utf-8", "replace") or "it takes too much time or memory")
    return said


def _answer(work: Callable[[], bytes], most: int, write: int) -> int:
    """What the forked process does; return its exit status."""
    try:
        with open("/dev/null", "wb") as null:  # noqa: PTH123 - no more Python than needed after a fork
            os.dup2(null.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        data = work()
        if len(data) <= most:
            _write(write, data)
            return 0
        _write(write, f"it becomes {len(data)} bytes, over the limit of {most}".encode())
    except MemoryError:
        return 1
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _write(write, reason[:_REASON_CHARACTERS].encode("utf-8", "replace"))
    return 1


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no more Python than needed after a fork
        return int(file.read().split()[0]) * resource.getpagesize()
