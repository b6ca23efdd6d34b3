"""How the store tells a person what it is doing: the CLI draws it, a daemon may log it, tests collect it."""

from __future__ import annotations

from typing import Protocol

from promptd.graphs.digest import Digest


class Progress(Protocol):
    """Told about one task after the other; a new `start` ends the task before it."""

    def start(self, task: str, total: int | None, done: int = 0, digest: Digest | None = None) -> None:
        """Begin `task`, e.g. `pulling model.gguf`; `total` and `done` are bytes, `total` None when nobody knows.

        `digest` is of the file that comes, where that is known.
        """

    def advance(self, amount: int) -> None:
        """Count `amount` more bytes of the running task; negative when bytes had to be thrown away."""

    def note(self, sentence: str) -> None:
        """Say something worth a line of its own, e.g. that one source failed and the next is tried."""


class Silent:
    """Tells nobody."""

    def start(self, task: str, total: int | None, done: int = 0, digest: Digest | None = None) -> None:
        """Nothing to do."""

    def advance(self, amount: int) -> None:
        """Nothing to do."""

    def note(self, sentence: str) -> None:
        """Nothing to do."""
