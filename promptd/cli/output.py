"""How promptd talks to a terminal: the one place that makes consoles, prints errors, JSON and tables, and draws
progress.

Text from guests, models and model files is written through `neutralise` when the stream is a terminal: an escape
sequence in it would otherwise move the cursor, rename the window or answer on the person's behalf.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from promptd.errors import PromptdError, RuntimeFailure
from promptd.graphs.digest import Digest
from promptd.graphs.sizes import human_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

PLAIN_INTERVAL_S = 5.0
"""Seconds between two lines of progress where no bar can be drawn."""

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 but for tab and newline; ESC opens sequences that move, retitle, paste
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # and the marks that reorder text: https://trojansource.codes
)


def open_missing_streams() -> None:
    """Join standard streams that were closed from the start to /dev/null.

    The next file that is opened would take their numbers, and a guest would read that file as its standard input.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)
            if null != fd:
                os.close(null)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


@contextmanager
def telling_write_errors(what: str) -> Iterator[None]:
    """Make an OSError inside, but for a reader that has left, a RuntimeFailure that says `what` cannot be written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {what}: {error.strerror}") from error


def neutralise(text: str) -> str:
    r"""Return `text` with every control character but tab and newline spelt out: ESC becomes `\x1b`."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\r\n", "\n"))


def console(stream: TextIO | None = None) -> Console:
    """Return a rich console on `stream` (None is standard output) that takes text as it is: no markup, emoji or
    colouring.
    """
    from rich.console import Console

    return Console(file=stream or sys.stdout, markup=False, emoji=False, highlight=False, soft_wrap=True)


def write(text: str, stream: TextIO | None = None) -> None:
    """Write text of a guest or model, at once; neutralised when `stream` (None is standard output) is a terminal."""
    stream = stream or sys.stdout
    if stream.isatty():
        text = neutralise(text)
    encoding = stream.encoding or "utf-8"
    with telling_write_errors("standard error" if stream is sys.stderr else "standard output"):
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def print_line(text: str = "", stream: TextIO | None = None) -> None:
    """Write one line; line breaks inside become spaces."""
    write(" ".join(text.splitlines()) + "\n", stream)


def print_error(sentence: str) -> None:
    """Print `promptd: <sentence>` on standard error, if that can be written."""
    with suppress(PromptdError, OSError):
        print_line(f"promptd: {sentence}", sys.stderr)


def print_json(value: Any) -> None:
    """Print `value` as JSON that is also safe on a terminal."""
    write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as their content, never cut, so that scripts can read them too."""
    table = [[neutralise(cell).replace("\n", " ") for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print_line("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class ProgressLines:
    """Shows the progress of the store on standard error: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._console = console(sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._spoke = 0.0

    def __enter__(self) -> ProgressLines:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, task: str, total: int | None, done: int = 0, digest: Digest | None = None) -> None:
        self._name, self._total, self._done = neutralise(task), total, done
        if self._console.is_terminal:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(self._name, total=total, completed=done)
            return
        self._spoke = time.monotonic()
        size = "" if total is None else f" ({human_size(total)}{f', {human_size(done)} are here' if done else ''})"
        print_line(f"{self._name}{size}", sys.stderr)

    def advance(self, amount: int) -> None:
        self._done += amount
        if self._task is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._spoke >= PLAIN_INTERVAL_S:
            self._spoke = time.monotonic()
            part = f" ({self._done * 100 // self._total} %)" if self._total else ""
            print_line(f"{self._name}: {human_size(self._done)}{part}", sys.stderr)

    def note(self, sentence: str) -> None:
        self._console.print(neutralise(sentence))
