"""How much prefill a step takes along while other replies are being decoded: so much that they slow down to about half,
by what steps were measured to take.

A fixed number would be wrong somewhere: on two cores each prompt token in a step costs about as much as a decoded one,
on a GPU hundreds cost next to nothing.
"""

from __future__ import annotations

LONGER = 0.8
"""A step with prefill may take this much longer than one without, so that with what varies it stays below twice."""
MIN_TOKENS = 4
"""Prefill gets on, whatever it costs."""
UNMEASURED_SHARE = 8
"""One part in this many of the step goes to prefill until steps were measured."""
SMOOTHING = 0.2
"""The weight of the last measurement in a mean."""


class PrefillShare:
    """Seconds of steps by what was in them, and what follows for the next."""

    def __init__(self, step_tokens: int) -> None:
        self._step_tokens = step_tokens
        self._decode: dict[int, float] = {}
        """Mean seconds of a step that only decodes, by how many sequences."""
        self.token_seconds: float | None = None
        """Mean seconds one prompt token adds to a step."""

    def observe(self, decoding: int, prefill: int, seconds: float) -> None:
        """Take in a step of `decoding` sequences and `prefill` prompt tokens."""
        if not prefill:
            self._decode[decoding] = _mean(self._decode.get(decoding), seconds)
        elif (base := self.decode_seconds(decoding)) is not None:
            self.token_seconds = _mean(self.token_seconds, max(0.0, seconds - base) / prefill)

    def tokens(self, decoding: int, guests_decoding: int, guests_prefilling: int) -> int:
        """Return how many prompt tokens the next step may take beside `decoding` sequences.

        Where more guests wait for their first token than have theirs, prefill gets more of the time, by guests.
        """
        left = self._step_tokens - decoding
        if not decoding:
            return left
        base = self.decode_seconds(decoding)
        if not base or not self.token_seconds:
            wanted = self._step_tokens // UNMEASURED_SHARE
        else:
            wanted = int(LONGER * max(1.0, guests_prefilling / guests_decoding) * base / self.token_seconds)
        return max(min(MIN_TOKENS, left), min(wanted, left))

    def knows(self, decoding: int) -> bool:
        """Return whether a step that only decodes so many sequences was measured."""
        return decoding in self._decode

    def decode_seconds(self, decoding: int) -> float | None:
        """Return how long a step that only decodes takes, by the most similar one that was measured."""
        if not decoding:
            return 0.0
        if not self._decode:
            return None
        return self._decode[min(self._decode, key=lambda width: abs(width - decoding))]


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + SMOOTHING * (value - mean)
