"""Whose turn it is: guests are served by how many tokens they were given lately, not by how many turns they ask for.

This is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each token
decoded for a guest counts against it, divided by its weight, and the guest with the lowest count goes first. Tokens
taken from the KV cache cost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class FairShare:
    """The tokens each guest with turns was given. A guest has as many turns as it was told to have begun and not
    ended.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights` are by guest, as in `of_guest`; 1 where there is none."""
        self.weights = weights
        self._turns: Counter[str] = Counter()
        self._served: dict[str, float] = {}

    def begin(self, guest: str) -> None:
        """A turn of `guest` begins. Nobody saves up for later: after a pause it stands level with the least served."""
        if not self._turns[guest]:
            least = min((self._served[other] for other, turns in self._turns.items() if turns), default=0.0)
            self._served[guest] = max(self._served.get(guest, 0.0), least)
        self._turns[guest] += 1

    def end(self, guest: str) -> None:
        """A turn of `guest` has ended. What it was given is remembered while that puts it behind others."""
        self._turns[guest] -= 1
        if self._turns[guest]:
            return
        del self._turns[guest]
        least = min((self._served[other] for other in self._turns), default=None)
        self._served = {
            other: served
            for other, served in self._served.items()
            if other in self._turns or (least is not None and served > least)
        }

    def charge(self, guest: str, tokens: int) -> None:
        """Count tokens that are decoded for `guest`."""
        self._served[guest] = self._served.get(guest, 0.0) + tokens / self._weight(guest)

    def served(self, guest: str) -> float:
        """Return the tokens `guest` was given, by its weight."""
        return self._served.get(guest, 0.0)

    def _weight(self, guest: str) -> float:
        return of_guest(self.weights, guest) or 1.0


def of_guest(table: Mapping[str, float], guest: str) -> float | None:
    """Return what a table of the settings says of a guest: by its identity, or by what follows the last slash in it."""
    return table.get(guest) or table.get(guest.rpartition("/")[2])
