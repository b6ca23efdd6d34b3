"""How much of the KV cache each guest may hold: a share of its cells, and as large a share of its sequence ids.

A guest that has used up its quota makes room among its own idle sequences, and never among others'. What the operator
lets all guests share is nobody's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from promptd.engine.fairness import of_guest
from promptd.engine.sequence import Sequence

LEAST_CELLS = 64
"""What every guest may hold: a context has no fewer tokens."""


class Quotas:
    """The quota of every guest; one without may hold the whole cache."""

    def __init__(self, default: float | None, guests: Mapping[str, float], *, cells: int, slots: int) -> None:
        """Quotas up to 1 are shares of `cells`, larger ones are cells; None is no quota."""
        self._default = default
        self._guests = guests
        self._cells = cells
        self._slots = slots

    def update(self, default: float | None, guests: Mapping[str, float]) -> None:
        """Take other quotas."""
        self._default = default
        self._guests = guests

    def cells(self, guest: str) -> int | None:
        """Return how many cells `guest` may hold; None is no limit."""
        quota = of_guest(self._guests, guest) or self._default
        if quota is None:
            return None
        return min(self._cells, max(LEAST_CELLS, int(quota * self._cells if quota <= 1 else quota)))

    def slots(self, guest: str) -> int | None:
        """Return how many sequence ids `guest` may hold; None is no limit."""
        cells = self.cells(guest)
        return None if cells is None else math.ceil(self._slots * cells / self._cells)

    def context(self, guest: str, context: int) -> int:
        """Return how many tokens a conversation of `guest` can hold where the model's can hold `context`."""
        cells = self.cells(guest)
        return context if cells is None else min(context, cells)


def held(sequences: Collection[Sequence], most: int) -> int:
    """Return how many cells sequences of one guest hold, those they share counted once; may be too high up to `most`,
    which is all it takes to know that they are fewer.
    """
    bound = sum(len(sequence.cells) for sequence in sequences)
    if bound <= most:
        return bound
    return len({cell for sequence in sequences for cell in sequence.cells[sequence.public :]})
