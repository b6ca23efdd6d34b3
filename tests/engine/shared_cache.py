"""Decodes sequences together in one KV cache and some of them alone, run as its own process; prints JSON: for each case
which of those ended with other logits alone than in company.

Arguments: MODEL. Cells of the sequences lie between each other, so that attention has to find each one's own.
"""

import ctypes
import json
import random
import sys
from array import array
from pathlib import Path

import llama_cpp.llama_cpp as llama

from promptd.engine.llama import Batch, Context, Model
from promptd.engine.transcript import TOKEN_CODE

CASES = [(24, 1), (24, 2), (6, 9), (2, 17)]
"""Sequences, and tokens of each in a step: a cell of 24, of 6 and of 2 is a token's own."""
TOKENS = 90
STEP_TOKENS = 63


def decode(context: Context, batch: Batch, sequences: dict[int, "array[int]"], chunk: int) -> dict[int, bytes]:
    """Decode the sequences side by side in an empty cache; return the logits after each."""
    context.clear()
    indexes = {}
    for start in range(0, TOKENS, chunk):
        batch.clear()
        for slot, tokens in sequences.items():
            last = start + chunk >= TOKENS
            indexes[slot] = batch.add(tokens[start : start + chunk], start, slot, output=last)
        context.decode(batch)
    size = 4 * llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(context._model.handle))
    return {
        slot: ctypes.string_at(llama.llama_get_logits_ith(context.handle, index), size)
        for slot, index in indexes.items()
    }


def main() -> None:
    @llama.llama_log_callback
    def silent(level, text, data):
        pass

    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = Model(Path(sys.argv[1]), gpu_layers=0)
    context = Context(model, cells=4096, sequences=24, step_tokens=STEP_TOKENS, threads=1, offload=False)
    batch = Batch(STEP_TOKENS)
    other = []
    for count, chunk in CASES:
        draw = random.Random(count)
        sequences = {
            slot: array(TOKEN_CODE, (draw.randrange(100, 40_000) for _ in range(TOKENS))) for slot in range(count)
        }
        together = decode(context, batch, sequences, chunk)
        assert len({*together.values()}) == count
        some = {0, count // 2, count - 1}
        alone = {slot: decode(context, batch, {slot: sequences[slot]}, chunk)[slot] for slot in some}
        other.append([slot for slot in some if together[slot] != alone[slot]])
    print(json.dumps(other))


if __name__ == "__main__":
    main()
