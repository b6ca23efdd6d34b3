"""One step of llama.cpp: the scheduled tokens in one batch, computed by as many threads as are best now."""

from __future__ import annotations

import time
from array import array

from promptd.engine import llama
from promptd.engine.llama_adapters import LoadedAdapters
from promptd.engine.run_queue import RunQueueWait
from promptd.engine.scheduler import Scheduler, Work
from promptd.engine.speculation import Speculation
from promptd.engine.threads import ThreadController
from promptd.engine.transcript import TOKEN_CODE


class Stepper:
    """Makes the steps of one llama.cpp context, and tells the scheduler how long they took."""

    def __init__(
        self,
        context: llama.Context,
        scheduler: Scheduler,
        speculation: Speculation,
        adapters: LoadedAdapters,
        *,
        step_tokens: int,
        threads: int,
        adapt_threads: bool,
    ) -> None:
        """`threads` are used at first, and always unless `adapt_threads`."""
        self._context = context
        self._scheduler = scheduler
        self._speculation = speculation
        self._adapters = adapters
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

    def run(self, step: list[Work]) -> list[tuple[Work, int]]:
        """Decode, for sequences with the same adapters; return the work after which a token can be sampled, each with
        the index of its logits. Those after its guesses follow that.

        Raises LlamaError, after which the KV cache is undefined.
        """
        batch = self._batch
        batch.clear()
        outputs = []
        guesses = 0
        for work in step:
            sequence = work.generation.sequence
            assert sequence.slot is not None
            end = work.start + work.count
            index = batch.add(sequence.tokens[work.start : end], work.start, sequence.slot, output=work.output)
            if work.output:
                outputs.append((work, index))
            for position, token in enumerate(work.draft, end):
                batch.add(array(TOKEN_CODE, (token,)), position, sequence.slot, output=True)
            guesses += len(work.draft)
        self._adapters.use(step[0].generation.sequence.adapters)
        began = time.monotonic()
        self._context.decode(batch)
        seconds = time.monotonic() - began
        (self._speculation if guesses else self._scheduler).measured(step, seconds)
        if self._controller is not None:
            self._controller.observe(len(batch), seconds)
            if self._controller.threads != self._threads:
                self._threads = self._controller.threads
                self._context.set_threads(self._threads)
                self._speculation.set_threads(self._threads)
        return outputs
