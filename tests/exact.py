"""Settings under which the engine answers the same whatever else it is doing."""

from __future__ import annotations

from promptd.config import EngineSettings
from promptd.engine import Sampling

EXACT = EngineSettings(threads=1, step_tokens=48, kv_tokens=8192)
"""Settings with which llama.cpp's result for a sequence does not depend on how its tokens were batched.

On the CPU its flash attention has three kernels that round differently: one for 64 and more tokens in a step, one
that splits a single token's keys between threads, and one for the rest (ggml-cpu/ops.cpp,
ggml_compute_forward_flash_attn_ext_f16). With few tokens in a step and one thread the last alone is used, and
batched and single results are equal to the bit.
"""

GREEDY = Sampling(temperature=0, max_tokens=16)
