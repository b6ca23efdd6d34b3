"""What the tests of the store share besides fixtures."""

from __future__ import annotations

from collections.abc import Callable

from promptd.graphs.digest import Digest
from promptd.graphs.store import Store

MakeStore = Callable[..., Store]
"""Makes a store on the local hub: `make(*catalog_entries, offline=False, endpoint=None)`."""

TOKEN = "hf_secret"


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.notes: list[str] = []
        self.done = 0
        self.total: int | None = None

    def start(self, task: str, total: int | None, done: int = 0, digest: Digest | None = None) -> None:
        self.tasks.append(task)
        self.total, self.done = total, done

    def advance(self, amount: int) -> None:
        self.done += amount

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)
