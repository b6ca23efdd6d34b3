"""The cells of the KV cache by number: which are free, and how many sequences hold each of the others."""

from __future__ import annotations

from collections.abc import Iterable


class Cells:
    """Counts the holders of each cell. A cell without one is free."""

    def __init__(self, count: int) -> None:
        self.total = count
        self._free = list(range(count))
        self._extra_holders: dict[int, int] = {}
        """Of cells that several hold: how many besides the first."""

    @property
    def free(self) -> int:
        """How many nobody holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Return so many free cells, which are held once from now on; there must be as many."""
        if not count:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        return taken

    def hold(self, cells: Iterable[int]) -> None:
        """Count one more holder of cells that are held already."""
        for cell in cells:
            self._extra_holders[cell] = self._extra_holders.get(cell, 0) + 1

    def give_back(self, cells: Iterable[int]) -> None:
        """Count one holder less."""
        if not self._extra_holders:
            self._free += cells
            return
        for cell in cells:
            holders = self._extra_holders.get(cell, 0)
            if holders == 0:
                self._free.append(cell)
            elif holders == 1:
                del self._extra_holders[cell]
            else:
                self._extra_holders[cell] = holders - 1

    def shared(self, cells: Iterable[int]) -> int:
        """Return how many of these are held by others too."""
        return sum(map(self._extra_holders.__contains__, cells)) if self._extra_holders else 0
