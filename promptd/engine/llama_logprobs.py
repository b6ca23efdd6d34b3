"""The fence around llama.cpp's logits: how likely the model thought the token that was taken, and the likeliest others.

The probabilities are the softmax of the logits as the model gave them, which samplers leave as they are: they work on a
copy. Checked against llama-cpp-python 0.3.36 (llama_sampler_sample, llama_get_logits_ith).
"""

from __future__ import annotations

import numpy as np

from promptd.chat import TokenLogprob
from promptd.engine.llama import Context, Vocabulary
from promptd.engine.llama_bindings import bindings as _llama

LEAST_LOGPROB = -9999.0
"""What OpenAI tells of a token that is all but impossible; JSON has no infinity."""


def logprob_of(context: Context, vocabulary: Vocabulary, index: int, token: int, top: int) -> TokenLogprob:
    """Return how likely `token` was after batch index `index` of the last step, with the `top` likeliest there."""
    logits = np.ctypeslib.as_array(_llama.llama_get_logits_ith(context.handle, index), shape=(vocabulary.size,))
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))

    def scored(number: int) -> TokenLogprob:
        logprob = max(float(logits[number]) - total, LEAST_LOGPROB)
        return TokenLogprob(number, vocabulary.spelling(number), logprob)

    best: list[int] = []
    if top:
        candidates = np.argpartition(logits, -top)[-top:] if top < len(logits) else np.arange(len(logits))
        best = candidates[np.argsort(-logits[candidates], kind="stable")].tolist()
    chosen = scored(token)
    return TokenLogprob(token, chosen.data, chosen.logprob, tuple(map(scored, best)))
