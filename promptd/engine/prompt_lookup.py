"""Prompt lookup: what a reply is likely to say next, by what followed the same tokens earlier in its conversation.

Replies that rewrite, quote or fill in repeat what they were given. Saxena, "Prompt Lookup Decoding" (2023),
https://github.com/apoorvumang/prompt-lookup-decoding
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

NGRAM = 3
"""So many equal tokens make a place earlier in the conversation worth following."""


class PromptLookup:
    """Where the n-grams of one growing sequence of tokens were seen last."""

    def __init__(self) -> None:
        self._followers: dict[tuple[int, ...], int] = {}
        """The position after an n-gram."""
        self._known = NGRAM
        """Followers before this position are known."""

    def draft(self, tokens: array[int], most: int) -> tuple[int, ...]:
        """Return at most `most` tokens that may follow `tokens`, which are those of the last call and some more."""
        if len(tokens) > self._known:
            start = self._known
            columns: list[Iterable[int]] = [tokens[start - NGRAM + offset : -1] for offset in range(NGRAM)]
            self._followers.update(zip(zip(*columns, strict=False), range(start, len(tokens)), strict=False))
            self._known = len(tokens)
        place = self._followers.get(tuple(tokens[-NGRAM:]))
        return () if place is None else tuple(tokens[place : place + most])
