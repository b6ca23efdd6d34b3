"""One step of llama.cpp: the scheduled tokens in one batch, computed by as many threads as are best now."""

from __future__ import annotations

import time

from promptd.engine import llama
from promptd.engine.generation import Generation
from promptd.engine.run_queue import RunQueueWait
from promptd.engine.scheduler import Scheduler, Work
from promptd.engine.threads import ThreadController


class Stepper:
    """Makes the steps of one llama.cpp context, and tells the scheduler how long they took."""

    def __init__(
        self, context: llama.Context, scheduler: Scheduler, *, step_tokens: int, threads: int, adapt_threads: bool
    ) -> None:
        """`threads` are used at first, and always unless `adapt_threads`."""
        self._context = context
        self._scheduler = scheduler
        self._batch = llama.Batch(step_tokens)
        self._threads = threads
        self._controller = ThreadController(threads, RunQueueWait().seconds) if adapt_threads else None

    @property
    def threads(self) -> int:
        """Threads that compute the next step."""
        return self._threads

    @property
    def thread_changes(self) -> int:
        """How often that number was changed."""
        return self._controller.changes if self._controller else 0

    def run(self, work: list[Work]) -> list[tuple[Generation, int]]:
        """Decode; return the replies of which a token can be sampled, each with its index in the batch.

        Raises LlamaError, after which the KV cache is undefined.
        """
        batch = self._batch
        batch.clear()
        outputs = []
        for item in work:
            sequence = item.generation.sequence
            assert sequence.slot is not None
            tokens = sequence.tokens[item.start : item.start + item.count]
            index = batch.add(tokens, item.start, sequence.slot, output=item.output)
            if item.output:
                outputs.append((item.generation, index))
        began = time.monotonic()
        self._context.decode(batch)
        seconds = time.monotonic() - began
        self._scheduler.measured(work, seconds)
        if self._controller is not None:
            self._controller.observe(len(batch), seconds)
            if self._controller.threads != self._threads:
                self._threads = self._controller.threads
                self._context.set_threads(self._threads)
        return outputs
