"""How large a model's KV cache is made, by the model's shape: the worker asks for so much, and its parent makes room in
the budget of memory first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from promptd.engine.memory import available_memory
from promptd.engine.messages import Start
from promptd.errors import TooLarge

DEFAULT_CELLS = 16_384
"""KV cells when nobody says: four conversations of 4,096 tokens; llama.cpp touches every page of it at start-up, so
more costs time.
"""
KV_MEMORY_SHARE = 4
"""Unless told otherwise the KV cache takes at most one part in this many of the memory that is available."""
MIN_CELLS = 512
CELL_STEP = 256
"""llama.cpp rounds the cache up to this many cells (llama-context.cpp)."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the size of a model's KV cache follows from."""

    n_ctx_train: int
    """Tokens it was trained for."""
    kv_cell_bytes: int
    """Bytes one token takes in a 16-bit KV cache, if every layer attends."""


def kv_cells(start: Start, shape: ModelShape) -> int:
    """Return how many cells to ask for: what the operator says, else what the graph's context needs and memory
    allows. Raises TooLarge where `start.kv_bytes` allows hardly any.
    """
    cell_bytes = max(1, shape.kv_cell_bytes)
    if start.kv_bytes is not None:
        cells = min(start.kv_tokens or DEFAULT_CELLS, start.kv_bytes // cell_bytes)
        if cells < MIN_CELLS:
            raise TooLarge(
                f"{Path(start.path).name} needs {shape.kv_cell_bytes} bytes of KV cache for each token,"
                f" and all of it may take {start.kv_bytes}"
            )
        return cells // CELL_STEP * CELL_STEP
    if start.kv_tokens is not None:
        return _rounded(start.kv_tokens)
    wanted = max(DEFAULT_CELLS, min(start.context or 0, shape.n_ctx_train))
    return max(MIN_CELLS, _rounded(min(wanted, available_memory() // KV_MEMORY_SHARE // cell_bytes)))


def _rounded(cells: int) -> int:
    return -(cells // -CELL_STEP) * CELL_STEP
