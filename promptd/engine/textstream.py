"""From the bytes of generated tokens to the text of a reply: whole characters, and nothing from a stop string on."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Sequence


class TextStream:
    """The text of one reply as it grows.

    Bytes that are not yet a whole character, and text that may turn out to begin a stop string, are held back.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self._given: list[str] = []
        self._given_length = 0
        self._ends: list[int] = []
        self.stopped = False
        """Whether a stop string was found; the stream takes nothing after that."""

    @property
    def text(self) -> str:
        """All text given so far."""
        return "".join(self._given)

    def feed(self, piece: bytes) -> str:
        """Take the bytes of the next token; return the text that is now certain."""
        self._held += self._decoder.decode(piece)
        if not self._stops:
            return self._give(len(self._held))
        self._ends.append(self._given_length + len(self._held))
        found = [start for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found))
        return self._give(len(self._held) - self._possible_stop())

    def finish(self) -> str:
        """Return what was held back, with U+FFFD for an unfinished character; nothing after a stop string."""
        if self.stopped:
            self._held = ""
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._give(len(self._held))

    def tokens_within(self, tokens: int) -> tuple[int, bool]:
        """Return how many of the `tokens` fed lie within the given text, and whether the text ends where the last
        of them does.
        """
        if not self.stopped:
            return tokens, True
        if self._given_length == 0:
            return 0, True
        last = bisect_left(self._ends, self._given_length)
        exact = self._ends[last] == self._given_length
        return (last + 1 if exact else last), exact

    def tokens_given(self, tokens: int) -> int:
        """Return how many of the `tokens` fed have a part in the given text, when some was given just now."""
        if not self._stops:
            return tokens
        return min(bisect_left(self._ends, self._given_length) + 1, tokens) if self._given_length else 0

    def _possible_stop(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = min(max(map(len, self._stops)) - 1, len(self._held))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _give(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        if text:
            self._given.append(text)
            self._given_length += len(text)
        return text
