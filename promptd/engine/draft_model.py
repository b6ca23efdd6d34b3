"""A draft model: a small model with the vocabulary of the large one, which guesses what that will say next.

It has a context of its own in the same worker, for a few replies at a time; only narrow batches have room for guesses.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from pathlib import Path

from promptd.engine import llama
from promptd.engine.llama_samplers import SamplerChain
from promptd.engine.transcript import TOKEN_CODE, common_prefix
from promptd.errors import InvalidArgument

SEQUENCES = 4
"""Replies it guesses for at once."""
PADDING_TOKENS = 128
"""Models of one family differ by so many tokens at the end of their vocabularies (llama.cpp, common/speculative.cpp,
SPEC_VOCAB_MAX_SIZE_DIFFERENCE)."""


class DraftModel:
    """Continues token sequences greedily, from what it has computed of them before."""

    def __init__(self, model: llama.Model, *, cells: int, step_tokens: int, threads: int, offload: bool) -> None:
        """Allocate; raises LlamaError."""
        self._context = llama.Context(
            model, cells=cells, sequences=SEQUENCES, step_tokens=step_tokens, threads=threads, offload=offload
        )
        self.bytes = model.size + self._context.cells * model.kv_cell_bytes
        """What its weights and its KV cache take."""
        self._step_tokens = step_tokens
        self._batch = llama.Batch(step_tokens)
        self._ends = frozenset(model.vocabulary.ends)
        self._greedy = SamplerChain()
        self._greedy.add_greedy()
        self._computed: OrderedDict[object, tuple[int, array[int]]] = OrderedDict()
        """By reply, the last used at the end: its sequence id, and the tokens it has cells for."""

    def set_threads(self, threads: int) -> None:
        """Compute from now on by so many threads."""
        self._context.set_threads(threads)

    def draft(self, reply: object, tokens: array[int], most: int) -> tuple[int, ...]:
        """Return up to `most` tokens that may follow the `tokens` of a reply; none where its context is too small.

        Raises LlamaError, after which everything is computed anew.
        """
        if len(tokens) + most > self._context.cells:
            return ()
        if reply not in self._computed:
            self._computed[reply] = (self._free_sequence(), array(TOKEN_CODE))
        self._computed.move_to_end(reply)
        sequence, computed = self._computed[reply]
        start = common_prefix(computed, tokens[:-1])
        self._context.remove(sequence, start)
        self._computed[reply] = (sequence, tokens[:start])
        self._make_room(len(tokens) + most)
        try:
            guesses: list[int] = []
            pending = tokens[start:]
            while True:
                guesses.append(self._next(sequence, pending, start))
                start += len(pending)
                if len(guesses) == most or guesses[-1] in self._ends:
                    break
                pending = array(TOKEN_CODE, guesses[-1:])
        except llama.LlamaError:
            self._context.clear()
            self._computed.clear()
            raise
        self._computed[reply] = (sequence, tokens + array(TOKEN_CODE, guesses[:-1]))
        return tuple(guesses)

    def _next(self, sequence: int, tokens: array[int], start: int) -> int:
        """Return the likeliest token after `tokens`, which are those of a sequence from position `start` on."""
        index = 0
        for begin in range(0, len(tokens), self._step_tokens):
            chunk = tokens[begin : begin + self._step_tokens]
            self._batch.clear()
            index = self._batch.add(chunk, start + begin, sequence, output=begin + len(chunk) == len(tokens))
            self._context.decode(self._batch)
        return self._greedy.sample(self._context, index)

    def _free_sequence(self) -> int:
        used = {sequence for sequence, _ in self._computed.values()}
        return min(set(range(SEQUENCES)) - used, default=-1) if len(used) < SEQUENCES else self._forget_oldest()

    def _make_room(self, cells: int) -> None:
        """Forget replies, the last one excepted, until it can have so many cells."""
        while len(self._computed) > 1:
            others = [tokens for _, tokens in self._computed.values()][:-1]
            if sum(map(len, others)) + cells <= self._context.cells:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> int:
        """Free the cells of the reply not used for longest, and return its sequence id."""
        _, (sequence, _) = self._computed.popitem(last=False)
        self._context.remove(sequence)
        return sequence


def check_draft(draft: llama.Model, draft_path: Path, model: llama.Model, path: Path) -> None:
    """Raise InvalidArgument for a draft model that cannot guess for `model`."""
    for each, file in ((draft, draft_path), (model, path)):
        if each.recurrent:
            raise InvalidArgument(f"{file.name} has recurrent layers, which cannot take back a guess: leave draft out")
    mine, other = model.vocabulary, draft.vocabulary
    remedy = "choose a draft of the same family"
    if abs(mine.size - other.size) > PADDING_TOKENS:
        raise InvalidArgument(
            f"draft model {draft_path.name} has a vocabulary of {other.size} tokens,"
            f" and {path.name} one of {mine.size}; {remedy}"
        )
    for token in range(min(mine.size, other.size)):
        if mine.text(token) != other.text(token):
            raise InvalidArgument(
                f"draft model {draft_path.name} has another vocabulary than {path.name}: token {token} is"
                f" {other.text(token)!r} there and {mine.text(token)!r} here; {remedy}"
            )
