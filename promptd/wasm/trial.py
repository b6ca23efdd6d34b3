"""Compiles a guest nobody vouches for in a process of its own, with limits of time and memory.

Compiling cannot be interrupted, and its cost can be out of all proportion to the file: 19 KB of nested loops take
minutes. The process puts what it compiled into the compile cache, from where this one takes it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from promptd.errors import (
    BY_NAME,
    InvalidEncoding,
    PromptdError,
    RuntimeFailure,
    TooLarge,
    UnsupportedOperation,
    code_of,
)

START_S = 60.0
"""What the process may take beside compiling: Python starts, and loads wasmtime."""

_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "PROMPTD_CACHE_HOME", "LD_LIBRARY_PATH", "PYTHONPATH")
"""The environment the process gets; no secrets are among it."""

LINKER_FAILED = 127
"""What glibc's dynamic linker ends a process with when it cannot map a library, here for want of memory (ld.so(8))."""


def compile_apart(path: Path, name: str, seconds: float, memory: int) -> None:
    """Compile the guest in `path`, whom errors call `name`, and put it into the compile cache.

    Takes `seconds` and `memory` bytes at most, else raises TooLarge. Raises as `Runtime.load`, and UnsupportedOperation
    where there is no compile cache.
    """
    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    command = [sys.executable, "-P", "-m", __name__, str(path), name, str(seconds), str(memory)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_S + seconds,
            env=environment,
            cwd="/",
            start_new_session=True,
            check=False,
        )
        status = done.returncode
    except subprocess.TimeoutExpired:
        status = -signal.SIGALRM
    if status == 0:
        return
    raise _failure(name, status, done.stdout if status > 0 else b"", seconds, memory)


def _failure(name: str, status: int, said: bytes, seconds: float, memory: int) -> PromptdError:
    if status == -signal.SIGALRM:
        return TooLarge(f"guest {name} takes longer than {seconds:g} s to compile; split its largest functions")
    if status < 0 or status == LINKER_FAILED:
        cause = "the dynamic linker" if status > 0 else signal.Signals(-status).name
        return TooLarge(
            f"compiling guest {name} was ended by {cause}; "
            f"it may have needed more than {memory // 1024**2} MiB of memory"
        )
    try:
        report = json.loads(said)
        return BY_NAME[report["code"]](report["sentence"])
    except (ValueError, LookupError, TypeError):
        return RuntimeFailure(f"the process that compiles guest {name} failed with status {status}")


def _limit(seconds: float, memory: int) -> None:
    """Let this process take so much from now on, or be killed: a signal ends native code too."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    held = _data_bytes()
    if held is not None:  # elsewhere than on Linux this limit counts nothing useful
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory, held + memory))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _data_bytes() -> int | None:
    """Return what RLIMIT_DATA counts: the private memory this process may write."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), None)


def _main(path: Path, name: str, seconds: float, memory: int) -> int:
    from promptd.wasm.cache import CompileCache
    from promptd.wasm.runtime import Runtime

    try:
        cache = CompileCache.open()
        if cache is None:
            raise UnsupportedOperation("guests can be uploaded only where compiled ones can be kept; see the log")
        runtime = Runtime(cache)
        _limit(seconds, memory)
        runtime.load(path, name)
    except (MemoryError, RuntimeError):  # the latter where no thread can be started
        error: PromptdError = TooLarge(f"compiling guest {name} needs more than {memory // 1024**2} MiB of memory")
    except InvalidEncoding as invalid:
        error = invalid
        if "Cannot allocate memory" in str(invalid):
            error = TooLarge(f"compiling guest {name} needs more than {memory // 1024**2} MiB of memory")
    except PromptdError as raised:
        error = raised
    else:
        return 0
    sentence = str(error).replace(str(path), f"guest {name}")
    print(json.dumps({"code": code_of(error).name, "sentence": sentence}), flush=True)  # noqa: T201
    return 1


if __name__ == "__main__":
    _, _path, _name, _seconds, _memory = sys.argv
    # A thread of a guest that sleeps in its start functions would keep the interpreter from ending.
    os._exit(_main(Path(_path), _name, float(_seconds), int(_memory)))
