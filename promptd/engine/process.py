"""The operating system's side of a worker: its process, environment and last words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from promptd.engine.run_queue import runnable

EXIT_SECONDS = 1.0
"""How long a worker whose socket was closed may finish its step before it is killed."""

SHORT_SPIN = "1000"
"""How long an OpenMP thread of llama.cpp spins at a barrier before it sleeps, where others use the cores too
(GOMP_SPINCOUNT, read when libgomp loads). libgomp's default is milliseconds; docs/engine.md has the measurements.
"""
_SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""By either the operator has chosen."""

_INHERITED = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
_INHERITED_PREFIXES = ("GGML_", "LLAMA_CPP_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "OMP_", "GOMP_")
"""What llama.cpp and its backends read; tokens and other secrets of the parent stay with the parent."""

_OWN_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
"""llama.cpp starts no debugger when it aborts; numpy's OpenBLAS, which nothing uses, no threads; and glibc keeps no
memory apart for threads that hardly need any: it would count where memory is limited, and be lent to whoever finds no
other, so that what does not fit would fail anywhere.
"""

_STDERR_TAIL_BYTES = 4096

_BOOT = (
    "import gc, sys; gc.disable(); sys.path.append(sys.argv[2]);"
    " from promptd.engine.worker import main; sys.exit(main(int(sys.argv[1])))"
)
"""Not `python -m`, which would import from the current directory first, and not need promptd to be installed.

Garbage is collected once the model is loaded: what is made until then stays.
"""
_PACKAGE_ROOT = str(Path(__file__).parents[2])


class WorkerProcess:
    """A process that waits at the other end of a socket pair for what it shall load.

    Linux kills it when the thread ends that started it.
    """

    def __init__(self, far: socket.socket, threads: int | None, name: str = "") -> None:
        """Start it on `far`, which is closed here; `threads` and `name` are those of the model, as far as known.

        Raises OSError.
        """
        self._stderr = _nameless_file()
        """Closed by `reap` or `kill`."""
        descriptor = far.fileno()
        spin = spin_count(threads, runnable(), os.cpu_count() or 1)
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(descriptor), _PACKAGE_ROOT, f"promptd worker: {name}"],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr.fileno(),
                env=worker_environment(os.environ, spin=spin),
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, and forget why."""
        with self._stderr:
            self._process.kill()
            self._process.wait()

    def reap(self) -> tuple[str, bool]:
        """Wait for the end of the process, killing it if it takes long; return why it ended, as the rest of a sentence
        about it, and whether somebody else killed it.
        """
        from promptd.engine.crashes import cause_of, was_killed  # which the start of a process need not wait for

        with self._stderr:
            try:
                status = self._process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return cause_of(self._process.wait(), self._last_words()), False
            return cause_of(status, self._last_words()), was_killed(status)

    def _last_words(self) -> str:
        """Return the last line the process wrote to standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def _nameless_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # a sandbox may refuse it
            return os.fdopen(os.memfd_create("promptd-worker-stderr"), "w+b")
    import tempfile  # 3 ms of imports, for which a start need not wait on Linux

    return tempfile.TemporaryFile()


def worker_environment(parent: Mapping[str, str], *, spin: str | None = None) -> dict[str, str]:
    """Return the environment of a worker whose parent has `parent`; `spin` is how long OpenMP threads do,
    where that does not choose.
    """
    kept = {name: value for name, value in parent.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)}
    chosen = {} if spin is None or any(name in parent for name in _SPIN_VARIABLES) else {"GOMP_SPINCOUNT": spin}
    return {**chosen, **_OWN_ENVIRONMENT, **kept}


def spin_count(threads: int | None, runnable: int, cores: int) -> str | None:
    """Return how long threads spin, None for libgomp's default.

    That is fastest on free cores, if nobody has fixed the number of `threads`: where the cores are free no more, fewer
    threads are used (threads.py). `runnable` threads run on the machine's `cores` already.
    """
    return None if threads is None and runnable < cores else SHORT_SPIN
