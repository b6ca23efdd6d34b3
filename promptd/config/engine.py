"""The engine's settings: how worker processes use the machine, and how guests share them."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field

from promptd.config.table import Table, as_pairs
from promptd.config.units import Quota, Size, parse_keep_alive


class EngineSettings(Table):
    """`[engine]`: how a worker process uses the machine."""

    kv_tokens: Annotated[int, Field(ge=256)] | None = None
    """Cells of the shared KV cache; None lets the engine choose from the model."""
    max_sequences: Annotated[int, Field(ge=1, le=256)] = 64
    """Conversations that can be resident in the KV cache at once (llama.cpp's LLAMA_MAX_SEQ is 256)."""
    step_tokens: Annotated[int, Field(ge=8)] = 512
    """Most tokens one llama_decode takes: the budget shared by decode and chunked prefill."""
    threads: Annotated[int, Field(ge=1)] | None = None
    keep_alive: Annotated[float, BeforeValidator(parse_keep_alive)] = 300.0
    """Seconds after which a model nobody uses is unloaded until it is used again; `forever`, or less than 0, is never.
    """
    memory: Size | None = None
    """Bytes all loaded models and their KV caches may take together: idle ones are unloaded for another, the least
    recently used first. None is what the machine, or the control group, has available.
    """
    speculation: Literal["auto", "on", "off"] = "auto"
    """Whether tokens are guessed from what a conversation has said, and verified together; `auto`: where that was
    measured to pay.
    """
    queue: Annotated[int, Field(ge=1)] = 512
    """Most prompts that wait for a place in the batch; one more is refused as busy."""
    spill_memory: Size = 1024**3
    """Bytes of memory for conversations that wait outside of the KV cache."""
    spill_disk: Size = 4 * 1024**3
    """Bytes of temporary files for those that do not fit there either; 0 writes none."""
    weights: Annotated[tuple[tuple[str, Annotated[float, Field(gt=0)]], ...], BeforeValidator(as_pairs)] = ()
    """A table by guest: how large its share of the model is against that of others, who have 1."""
    kv_quota: Quota | None = None
    """How much of the KV cache one guest may hold: a share (0.25, `25%`) or, above 1, tokens; None is all of it."""
    kv_quotas: Annotated[tuple[tuple[str, Quota], ...], BeforeValidator(as_pairs)] = ()
    """A table by guest of quotas other than `kv_quota`."""

    @property
    def of_worker(self) -> Self:
        """What cannot change while a worker runs: all but how guests share it."""
        return self.model_copy(update={"weights": (), "kv_quota": None, "kv_quotas": ()})
