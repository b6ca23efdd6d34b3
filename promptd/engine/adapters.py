"""LoRA adapters of a graph as the engine speaks of them, and whose turn it is where graphs of one model have different
ones: all sequences of one llama_decode have the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

QUANTUM_STEPS = 8
"""Steps one set of adapters has in a row while others wait: llama.cpp plans its memory anew for each change."""


class Lora(msgspec.Struct, frozen=True, order=True):
    """One adapter file and how strongly it acts. A file that has changed, by `version`, is another adapter."""

    path: str
    version: int
    scale: float


Adapters: TypeAlias = tuple[Lora, ...]
"""The set of a sequence, sorted, and without those of scale 0."""


class AdapterTurns:
    """Chooses whose step is next: each set of adapters in turn, some steps at a time."""

    def __init__(self) -> None:
        self._current: Adapters = ()
        self._left = 0
        self._served: dict[Adapters, int] = {}
        """When each set that waits was served last, by a count of changes."""
        self._changes = 0

    def next(self, sets: Iterable[Adapters]) -> Adapters:
        """Return which of the sets, of which there is one at least, has the next step."""
        present = list(dict.fromkeys(sets))
        if self._current not in present or (self._left == 0 and len(present) > 1):
            others = [each for each in present if each != self._current]
            self._changes += 1
            self._served = {each: when for each, when in self._served.items() if each in present}
            self._current = min(others, key=lambda each: self._served.get(each, 0))
            self._served[self._current] = self._changes
            self._left = QUANTUM_STEPS
        self._left = max(0, self._left - 1)
        return self._current
