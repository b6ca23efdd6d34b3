"""Text embeddings in the worker: a second llama.cpp context on the same weights, made when it is first needed and
stepped between the steps of the replies.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from dataclasses import dataclass

from promptd.engine import llama
from promptd.engine.llama_embedding import POOLING_LAST, POOLING_MODEL, POOLING_NONE, EmbeddingContext
from promptd.engine.messages import MAX_EMBED_TOKENS
from promptd.errors import InvalidArgument, PromptdError, RuntimeFailure, TimedOut, TooLarge


@dataclass(slots=True)
class _Job:
    call: int
    tokens: array[int]
    pooling: int
    deadline: float | None
    done: int = 0
    """Tokens decoded so far."""


class Embedder:
    """Makes one embedding after the other, a chunk of tokens in each step where the model's pooling allows that."""

    def __init__(self, model: llama.Model, *, step_tokens: int, threads: int, offload: bool, queue: int) -> None:
        self._model = model
        self._step_tokens = step_tokens
        self._threads = threads
        self._offload = offload
        self._queue = queue
        self._waiting: deque[_Job] = deque()
        self._context: EmbeddingContext | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a step to make."""
        return bool(self._waiting)

    def submit(self, call: int, tokens: array[int], pooling: int, deadline: float | None) -> None:
        """Queue an embedding; raises InvalidArgument, TooLarge."""
        limit = min(MAX_EMBED_TOKENS, self._model.n_ctx_train)
        if not tokens or not all(0 <= token < self._model.vocabulary.size for token in tokens):
            raise InvalidArgument("there is no text to make an embedding of")
        if len(tokens) > limit:
            raise TooLarge(f"the text has {len(tokens)} tokens, and an embedding can be made of {limit} at most")
        if len(self._waiting) >= self._queue:
            raise TooLarge(f"{len(self._waiting)} texts already wait for their embedding; try again later")
        if not POOLING_MODEL <= pooling <= POOLING_LAST:
            raise InvalidArgument(f"{pooling} is not a pooling type promptd offers")
        self._waiting.append(_Job(call, tokens, pooling, deadline))

    def cancel(self, call: int) -> None:
        """Forget a queued embedding."""
        self._waiting = deque(job for job in self._waiting if job.call != call)

    def step(self) -> tuple[int, array[float] | PromptdError] | None:
        """Work on the oldest embedding; return its call and vector once it is done, or why it failed."""
        if not self._waiting:
            return None
        job = self._waiting[0]
        try:
            vector = self._advance(job)
        except PromptdError as error:
            self._waiting.popleft()
            return job.call, error
        if vector is None:
            return None
        self._waiting.popleft()
        return job.call, vector

    def _advance(self, job: _Job) -> array[float] | None:
        if job.deadline is not None and time.monotonic() >= job.deadline:
            raise TimedOut("the deadline passed before the embedding was made")
        try:
            context = self._context_for(job.pooling)
            if job.done == 0:
                context.clear()
            chunked = context.pooling in (POOLING_NONE, POOLING_LAST)
            chunk = job.tokens[job.done : job.done + self._step_tokens] if chunked else job.tokens
            last = job.done + len(chunk) == len(job.tokens)
            context.decode(chunk, job.done, output=last)
            job.done += len(chunk)
            return normalised(context.vector()) if last else None
        except llama.LlamaError as error:
            self._context = None
            raise RuntimeFailure(f"llama.cpp cannot make the embedding: {error}") from error

    def _context_for(self, pooling: int) -> EmbeddingContext:
        if self._context is None or self._context.asked != pooling:
            self._context = None
            self._context = EmbeddingContext(
                self._model,
                tokens=min(MAX_EMBED_TOKENS, self._model.n_ctx_train),
                pooling=pooling,
                threads=self._threads,
                offload=self._offload,
            )
        return self._context


def normalised(vector: array[float]) -> array[float]:
    """Return the vector with length 1, or as it is where it has none."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return array("f", (value / length for value in vector)) if length > 0 else vector
