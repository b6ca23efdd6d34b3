"""What guesses cost: the seconds they add to a step, by how many there are, as was measured lately.

A part of that may come with the first: with SmolLM2 on two cores, steps of 1, 2, 3, 4, 8 and 17 tokens of one reply
took 7, 15, 19, 22, 33 and 52 ms, since llama.cpp multiplies by one column in another way than by several.
"""

from __future__ import annotations

FORGET = 0.6
"""The weight of what was measured before, each time something is."""


class GuessCost:
    """A line through what was measured, which counts the less the longer ago it was."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._guesses = 0.0
        self._squares = 0.0
        self._seconds = 0.0
        self._products = 0.0
        self.hope = 1.0
        """What part of that guesses are hoped to cost by now."""
        self.last = 0
        """How many guesses the last step had that was measured; 0 if none was."""

    def observe(self, guesses: int, seconds: float) -> None:
        """Take in that so many guesses, one or more, made a step longer by `seconds`; noise may make that negative."""
        values = (1.0, guesses, guesses * guesses, seconds, guesses * seconds)
        sums = (self._weight, self._guesses, self._squares, self._seconds, self._products)
        self._weight, self._guesses, self._squares, self._seconds, self._products = (
            FORGET * total + value for total, value in zip(sums, values, strict=True)
        )
        self.hope = 1.0
        self.last = guesses

    def seconds(self, guesses: int) -> float:
        """Return what so many guesses are expected to cost, once something was measured."""
        first, each = self._line()
        return self.hope * (first + each * guesses)

    def _line(self) -> tuple[float, float]:
        """Return the seconds that come with the first guess, and those of each; none is negative."""
        mean, mean_seconds = self._guesses / self._weight, self._seconds / self._weight
        spread = self._squares / self._weight - mean * mean
        if spread > 0.1:
            each = (self._products / self._weight - mean * mean_seconds) / spread
            first = mean_seconds - each * mean
            if each >= 0.0 <= first:
                return first, each
            if each < 0.0:
                return max(0.0, mean_seconds), 0.0
        return 0.0, max(0.0, self._products / self._squares)
