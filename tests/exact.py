"""Settings under which the engine answers the same whatever else it is doing."""

from __future__ import annotations

from itertools import count

from promptd.config import EngineSettings
from promptd.engine.options import Sampling

EXACT = EngineSettings(threads=1, step_tokens=48, kv_tokens=8192, speculation="off", spill_memory=0, spill_disk=0)
"""Settings with which llama.cpp's result for a sequence does not depend on how its tokens were batched.

On the CPU its flash attention has three kernels that round differently: one for 64 and more tokens in a step, one
that splits a single token's keys between threads, and one for the rest (ggml-cpu/ops.cpp,
ggml_compute_forward_flash_attn_ext_f16). With few tokens in a step and one thread the last alone is used, and
batched and single results are equal to the bit, as long as cells are filled in one order: so nothing leaves them to be
restored into others.
"""

_ALONE = count(1)


def exact_alone() -> EngineSettings:
    """Return EXACT for an engine of a test's own: graphs of one model with the same settings share a worker, also those
    of other tests' daemons and hosts, and with it the order in which its cells are filled.
    """
    return EXACT.model_copy(update={"kv_tokens": EXACT.kv_tokens + 256 * next(_ALONE)})


GREEDY = Sampling(temperature=0, max_tokens=16)
