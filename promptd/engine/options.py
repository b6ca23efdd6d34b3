"""How the tokens of one reply are to be chosen, as it travels from the graph's options to the worker's samplers."""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True):
    """How the tokens of one reply are chosen; defaults are llama.cpp's own (common/common.h,
    common_params_sampling).
    """

    temperature: float = 0.8
    """0 is greedy."""
    top_k: int = 40
    """0 is off."""
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    """None draws one."""
    max_tokens: int | None = None
    """None is as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Where a turn of a conversation is cut; replies to bare tokens have a reverse prompt instead."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    """How far back the penalties look; -1 is the whole context."""
    typical_p: float = 1.0
    min_keep: int = 0
    mirostat: int = 0
    """0 is off; 1 and 2 take the place of all samplers but the temperature."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    ignore_end: bool = False
    """Never end of the model's own accord."""
    grammar: str = ""
    """GBNF the reply keeps to; nothing is no grammar."""
    json_schema: str = ""
    """A JSON schema the reply keeps to, before the grammar; nothing is none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """What is added to the logits of tokens, by number."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told for each of the reply; replies to bare tokens tell none."""
