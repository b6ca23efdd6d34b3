"""Text embeddings in the worker: a second llama.cpp context on the same weights, made when it is first needed and
stepped between the steps of the replies, with as many texts in each step as fit.

In a model whose tokens see only those before them, a text can come in chunks: the vectors of its tokens are pooled
here. Other models need each text whole, and llama.cpp pools.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from promptd.engine import llama
from promptd.engine.llama_embedding import (
    POOLING_CLS,
    POOLING_LAST,
    POOLING_MEAN,
    POOLING_MODEL,
    POOLING_NONE,
    EmbeddingContext,
    Vector,
    is_causal,
    own_pooling,
)
from promptd.engine.messages import MAX_EMBED_TOKENS, POOLING_MODEL_OR_MEAN
from promptd.errors import Busy, InvalidArgument, PromptdError, RuntimeFailure, TimedOut, TooLarge

SEQUENCES = 32
"""Most texts in one step."""

CHUNK_TOKENS = 256
"""Most tokens of one step where texts come in chunks: llama.cpp also makes logits for all of them."""

Outcome: TypeAlias = "array[float] | PromptdError"


@dataclass(slots=True, eq=False)
class _Job:
    call: int
    tokens: array[int]
    pooling: int
    deadline: float | None
    sequence: int = -1
    done: int = 0
    """Tokens decoded so far."""
    pooled: Vector | None = None
    """What there is of the vector."""

    def pool(self, rows: Vector) -> None:
        """Take the vectors of the next tokens."""
        if self.pooling == POOLING_MEAN:
            total = rows.sum(axis=0, dtype="float64")
            self.pooled = total if self.pooled is None else self.pooled + total
        elif self.pooling != POOLING_CLS or self.pooled is None:
            self.pooled = rows[0 if self.pooling == POOLING_CLS else -1].copy()
        self.done += len(rows)


class Embedder:
    """Makes embeddings in the order in which they were asked for, several in each step."""

    def __init__(self, model: llama.Model, *, step_tokens: int, threads: int, offload: bool, queue: int) -> None:
        self._model = model
        self._causal = is_causal(model)
        self._own_pooling = own_pooling(model)
        self._limit = min(MAX_EMBED_TOKENS, model.n_ctx_train)
        self._step_tokens = min(step_tokens, CHUNK_TOKENS) if self._causal else self._limit
        self._sequences = 1 if model.recurrent else SEQUENCES
        self._threads = threads
        self._offload = offload
        self._queue = queue
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._context: EmbeddingContext | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a step to make."""
        return bool(self._waiting or self._running)

    def submit(self, call: int, tokens: array[int], pooling: int, deadline: float | None) -> None:
        """Queue an embedding; raises InvalidArgument, TooLarge, Busy."""
        if not tokens or not all(0 <= token < self._model.vocabulary.size for token in tokens):
            raise InvalidArgument("there is no text to make an embedding of")
        if len(tokens) > self._limit:
            raise TooLarge(f"the text has {len(tokens)} tokens, and an embedding can be made of {self._limit} at most")
        if len(self._waiting) >= self._queue:
            raise Busy(f"{len(self._waiting)} texts already wait for their embedding; try again later")
        if pooling == POOLING_MODEL_OR_MEAN:
            pooling = POOLING_MEAN if self._own_pooling is None else self._own_pooling
        elif pooling == POOLING_MODEL:
            pooling = POOLING_NONE if self._own_pooling is None else self._own_pooling
        if not POOLING_NONE <= pooling <= POOLING_LAST:
            raise InvalidArgument(f"{pooling} is not a pooling type promptd offers")
        self._waiting.append(_Job(call, tokens, pooling, deadline))

    def cancel(self, call: int) -> None:
        """Forget an embedding."""
        self._waiting = deque(job for job in self._waiting if job.call != call)
        for job in [job for job in self._running if job.call == call]:
            self._release(job)

    @property
    def threads(self) -> int:
        """Threads that compute a step."""
        return self._threads if self._context is None else self._context.threads

    def set_threads(self, threads: int) -> None:
        """Compute the steps from now on by so many threads."""
        self._threads = threads
        if self._context is not None:
            self._context.set_threads(threads)

    def step(self, most: int | None = None) -> list[tuple[int, Outcome]]:
        """Make one step, of `most` tokens where texts can come in chunks; return what is done or failed, by call."""
        ended: list[tuple[int, Outcome]] = []
        now = time.monotonic()
        for job in [
            job for job in (*self._running, *self._waiting) if job.deadline is not None and now >= job.deadline
        ]:
            self.cancel(job.call)
            ended.append((job.call, TimedOut("the deadline passed before the embedding was made")))
        try:
            self._admit()
            if self._running:
                self._decode(max(1, self._step_tokens if most is None else min(most, self._step_tokens)))
        except llama.LlamaError as error:
            failure = RuntimeFailure(f"llama.cpp cannot make the embedding: {error}")
            failed = self._running or [self._waiting.popleft()]
            ended += [(job.call, failure) for job in failed]
            self._running, self._context = [], None
        for job in [job for job in self._running if job.done == len(job.tokens)]:
            self._release(job)
            ended.append((job.call, normalised(job.pooled)))
        return ended

    def _admit(self) -> None:
        """Give the first waiting texts a sequence each, while there is room."""
        while self._waiting and len(self._running) < self._sequences:
            job = self._waiting[0]
            tokens = len(job.tokens) + sum(len(other.tokens) for other in self._running)
            if tokens > self._limit or (
                not self._causal and any(other.pooling != job.pooling for other in self._running)
            ):
                return
            context = self._context_for(POOLING_NONE if self._causal else job.pooling)
            job.sequence = min(set(range(self._sequences)) - {other.sequence for other in self._running})
            context.remove(job.sequence)
            self._running.append(self._waiting.popleft())

    def _decode(self, most: int) -> None:
        """Decode the next tokens of the running texts: at most `most`, or all where they must be whole."""
        assert self._context is not None
        chunks: list[tuple[_Job, array[int]]] = []
        for job in self._running:
            room = most - sum(len(chunk) for _, chunk in chunks) if self._causal else len(job.tokens)
            if room > 0:
                chunks.append((job, job.tokens[job.done : job.done + room]))
        self._context.decode([(chunk, job.done, job.sequence) for job, chunk in chunks])
        start = 0
        for job, chunk in chunks:
            if self._context.pooling == POOLING_NONE:
                job.pool(self._context.rows()[start : start + len(chunk)])
            else:
                job.pooled, job.done = self._context.pooled(job.sequence), len(chunk)
            start += len(chunk)

    def _release(self, job: _Job) -> None:
        self._running.remove(job)
        if self._context is not None:
            self._context.remove(job.sequence)

    def _context_for(self, pooling: int) -> EmbeddingContext:
        if self._context is None or self._context.pooling != pooling:
            self._context = None
            self._context = EmbeddingContext(
                self._model,
                tokens=self._limit,
                step_tokens=self._step_tokens,
                sequences=self._sequences,
                pooling=pooling,
                threads=self._threads,
                offload=self._offload,
            )
        return self._context


def normalised(vector: Vector | None) -> array[float]:
    """Return the vector with length 1, or as it is where it has none."""
    assert vector is not None
    length = math.hypot(*vector.tolist())
    return array("f", (vector / length if length > 0 else vector).astype("float32").tobytes())
