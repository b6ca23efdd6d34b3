"""What runs the guests: promptd itself, in this process, or any other host's command."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from promptd.backends.base import Graph
from promptd.backends.echo import EchoGraph
from promptd.config import GuestLimits
from promptd.errors import InvalidArgument, PromptdError
from promptd.wasm.cache import CompileCache
from promptd.wasm.grants import Grant
from promptd.wasm.guest import Guest
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdio
from promptd.wasm.traps import GuestDeadline, GuestTrap

OUTPUT_LIMIT = 4 * 1024**2
"""Bytes of output after which a command is taken for one that does not end; a guest says some tens of kilobytes."""

CONTEXTS = 1024
"""Contexts a guest may hold on promptd: in U1 and the core ABI there is no way to drop one."""


@dataclass(frozen=True, slots=True)
class Run:
    """How one run of a guest ended."""

    output: str
    exit_code: int | None
    """None when the time was over; negative is the signal that ended the host."""
    why: str = ""
    """What the host says of a run that did not end well."""


class ConformanceHost(Protocol):
    """Something that runs a guest of the suite with a graph named echo."""

    name: str
    is_promptd: bool
    """Whether a check of promptd's own choices can fail here."""

    def run(self, file: Path, arguments: Sequence[str]) -> Run:
        """Run `file` to its end."""


class Promptd:
    """promptd's own wasm side, without a process for each run; `open_graph` makes the graph that is named echo."""

    name = "promptd"
    is_promptd = True

    def __init__(self, timeout: float, open_graph: Callable[[], Graph] = EchoGraph) -> None:
        self._open_graph = open_graph
        self._runtime = Runtime(CompileCache.open())
        self._guests: dict[Path, Guest] = {}
        self._limits = GuestLimits(deadline=timeout, contexts=CONTEXTS)

    def run(self, file: Path, arguments: Sequence[str]) -> Run:
        output = bytearray()
        code, why = 1, ""
        try:
            with _quiet("promptd.grants"):
                code = self._run(file, arguments, output)
        except GuestDeadline as error:
            return Run(_text(output), None, str(error))
        except GuestTrap as error:
            code, why = error.exit_code, str(error)
        except PromptdError as error:
            why = str(error)
        return Run(_text(output), code, why)

    def _run(self, file: Path, arguments: Sequence[str], output: bytearray) -> int:
        if file not in self._guests:
            self._guests[file] = self._runtime.load(file)
        grant = Grant(frozenset({"echo"}), self._limits, args=tuple(arguments))
        stdio = Stdio(stdout=output.extend, stderr=lambda _data: None)
        with Session(self._runtime, self._guests[file], grant, lambda _name: self._open_graph(), stdio) as session:
            return session.run()

    def close(self) -> None:
        """End the wasm runtime."""
        self._runtime.close()


class Command:
    """Another host: a command to which the guest's file and arguments are added."""

    is_promptd = False

    def __init__(self, command: str, timeout: float) -> None:
        self.name = command
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise InvalidArgument(f"--host {command!r} is not a command line: {error}") from error
        if not self._words:
            raise InvalidArgument("--host names no command")
        if shutil.which(self._words[0]) is None:
            raise InvalidArgument(f"--host {command!r}: there is no command {self._words[0]}")
        self._timeout = timeout

    def run(self, file: Path, arguments: Sequence[str]) -> Run:
        try:
            process = subprocess.Popen(
                [*self._words, str(file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise InvalidArgument(f"cannot run the host {self._words[0]}: {error.strerror}") from error
        with process:
            output, errors = _Reader(process, process.stdout), _Reader(process, process.stderr)
            late = ""
            try:
                process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                late = f"it was not done after {self._timeout:g} s"
            _kill(process)
            said = [line.strip() for line in errors.text().splitlines() if line.strip()]
            if late:
                return Run(output.text(), None, late)
            return Run(output.text(), process.returncode, said[-1] if said else "")

    def close(self) -> None:
        """Nothing is held."""


class _Reader:
    """Reads one pipe of a process to its end, or ends the process where it does not stop writing."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._process = process
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        while chunk := os.read(pipe.fileno(), 65536):
            self._data += chunk
            if len(self._data) > OUTPUT_LIMIT:
                _kill(self._process)
                return

    def text(self) -> str:
        """Wait for the end and return all that came."""
        self._thread.join()
        return _text(self._data)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, which is in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _text(data: bytearray) -> str:
    return data.decode(errors="replace")


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep warnings to ourselves: that names are not granted is what the suite checks."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
