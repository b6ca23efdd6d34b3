"""What an engine tells of itself: the loaded model, and the counters of its worker."""

from __future__ import annotations

from typing import Literal

import msgspec


class EngineInfo(msgspec.Struct, frozen=True):
    """What a loaded model is and how the worker runs it."""

    architecture: str
    description: str
    parameters: int
    model_bytes: int
    n_ctx_train: int
    n_vocab: int
    context: int
    """Tokens one conversation can hold."""
    kv_tokens: int
    kv_bytes: int
    has_template: bool
    template: str | None
    devices: tuple[str, ...]
    """Names of llama.cpp's backend devices, for example CPU, CUDA0."""
    device: Literal["CPU", "GPU"]
    gpu_offload: bool
    """Whether this build of llama.cpp can offload to a GPU at all."""
    threads: int
    """Most threads that compute a step."""
    warnings: tuple[str, ...]
    """Sentences for the operator."""
    takes_tools: bool = False
    """Whether the model's own chat template presents tools; for other models they are put in words."""
    draft_bytes: int = 0
    """What a draft model and its KV cache take."""
    llama_commit: str = ""
    """The commit of llama.cpp's ggml."""


class KVHolder(msgspec.Struct, frozen=True):
    """A conversation that holds KV cells."""

    conversation: int
    cells: int
    running: bool
    """Whether it is making a reply."""


class EngineStats(msgspec.Struct, frozen=True):
    """Counters since the worker started, and what it holds now."""

    worker_pid: int | None = None
    """None while no worker runs."""
    worker_starts: int = 0
    unload_seconds: float | None = None
    """Seconds after which the worker is unloaded if nobody uses it; None is never, or that none runs."""
    rss: int = 0
    """Resident bytes of the worker process."""
    prompt_tokens: int = 0
    """Tokens decoded in prefill."""
    cached_tokens: int = 0
    """Prompt tokens taken from the KV cache instead."""
    generated_tokens: int = 0
    steps: int = 0
    batch_width_sum: int = 0
    batch_widths: dict[int, int] = {}
    """Sequences in a step -> number of such steps."""
    drafted_tokens: int = 0
    """Tokens that were guessed, and verified together with a token that was decoded."""
    accepted_tokens: int = 0
    """Those of them that the reply went on with."""
    threads: int = 0
    """Threads that compute a step now."""
    thread_changes: int = 0
    """Times that number was changed, to what the load of the machine made best."""
    tokens_per_second: float = 0.0
    """Tokens generated a second while replies were made, of late; 0 when none was."""
    turns: int = 0
    """Replies that ended and stand in their conversation."""
    evictions: int = 0
    preemptions: int = 0
    queue: int = 0
    running: int = 0
    resident: int = 0
    """Conversations with KV cells."""
    retired: int = 0
    """Closed conversations whose KV cells are kept for prompts that begin like them."""
    spilled: int = 0
    """Times a conversation's cells were saved when they had to leave the KV cache."""
    saved: int = 0
    """Conversations whose cells are saved now."""
    restored: int = 0
    """Times saved cells were put back instead of prefilled."""
    spill_memory: int = 0
    """Bytes of saved cells in memory."""
    spill_disk: int = 0
    """Bytes of saved cells in files."""
    sequences: int = 0
    """Conversations open."""
    kv_used: int = 0
    kv_total: int = 0
    kv_bytes: int = 0
    model_bytes: int = 0
    holders: tuple[KVHolder, ...] = ()
