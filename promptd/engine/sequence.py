"""A sequence: one conversation as the scheduler and the KV cache see it, tokens and state. It knows nothing of
llama.cpp.
"""

from __future__ import annotations

from array import array
from enum import Enum

from promptd.engine.adapters import Adapters
from promptd.engine.transcript import TOKEN_CODE


class SequenceState(Enum):
    """Where a sequence stands in the way of a prompt."""

    IDLE = "idle"
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


class Sequence:
    """The token history of one conversation and the KV cells that hold the beginning of it.

    `cells[i]` holds `tokens[i]`; the cells and the slot, llama.cpp's sequence id, belong to KVCache. Tokens beyond
    the cells are pending.
    """

    __slots__ = ("adapters", "cells", "guest", "public", "slot", "state", "tokens")

    def __init__(self, guest: str, tokens: array[int] | None = None, adapters: Adapters = ()) -> None:
        self.guest = guest
        self.adapters = adapters
        """LoRA adapters its keys and values are computed with."""
        self.tokens = array(TOKEN_CODE) if tokens is None else tokens
        self.cells: list[int] = []
        self.slot: int | None = None
        self.state = SequenceState.IDLE
        self.public = 0
        """So many tokens at the beginning are the operator's, and may be shared between guests."""

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return len(self.cells)

    @property
    def pending(self) -> int:
        """Tokens still to be decoded before the next one can be sampled."""
        return len(self.tokens) - len(self.cells)
