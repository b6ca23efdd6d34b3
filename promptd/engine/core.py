"""What the worker process does, without the process: conversations and the model; commands go in, events come out."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from typing import Literal

from promptd.engine import llama
from promptd.engine.builders import PromptBuilders
from promptd.engine.dialogues import Dialogues
from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.llama_adapters import LoadedAdapters
from promptd.engine.loading import Loaded
from promptd.engine.messages import (
    Cancel,
    Close,
    Command,
    Count,
    Counted,
    Embed,
    Event,
    Failed,
    Follow,
    Fork,
    Generate,
    LoadAdapters,
    Open,
    ReadStats,
    Rewind,
    Send,
    Share,
    Start,
    StatsRead,
    Take,
    Tokenize,
)
from promptd.engine.quota import Quotas
from promptd.engine.raw import RawGeneration
from promptd.engine.raw_calls import RawCalls
from promptd.engine.sampling import Samplers
from promptd.engine.scheduler import Scheduler, Work
from promptd.engine.speculation import Speculation
from promptd.engine.spill import Spill
from promptd.engine.statistics import EngineStats
from promptd.engine.stepper import Stepper
from promptd.engine.tokenizer import Tokenizer
from promptd.errors import PromptdError, RuntimeFailure, TimedOut, TooLarge


class Core:
    """A loaded model, its conversations, and the scheduler that steps them."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        step_tokens: int,
        max_sequences: int,
        queue: int,
        weights: dict[str, float],
        quotas: Quotas,
        spill: Spill,
        adapt_threads: bool,
        speculation: Literal["auto", "on", "off"],
    ) -> None:
        self.loaded = loaded
        self._spill = spill
        self._kv = KVCache(loaded.context, loaded.context.cells, max_sequences, spill, quotas)
        self._quotas = quotas
        self._scheduler = Scheduler(self._kv, step_tokens, queue, weights)
        self._speculation = Speculation(
            self._kv,
            self._scheduler,
            step_tokens=step_tokens,
            outputs=loaded.context.outputs,
            mode=speculation,
            draft=loaded.draft,
        )
        self._adapters = LoadedAdapters(loaded.model, loaded.context)
        self._stepper = Stepper(
            loaded.context,
            self._scheduler,
            self._speculation,
            self._adapters,
            step_tokens=step_tokens,
            threads=loaded.info.threads,
            adapt_threads=adapt_threads,
        )
        self._tokenizer = Tokenizer(loaded.model.vocabulary)
        samplers = Samplers(loaded.model.vocabulary, loaded.info.context)
        self._dialogues = Dialogues(
            loaded,
            self._kv,
            self._scheduler,
            samplers.make,
            quotas,
            self._adapters,
            PromptBuilders(loaded, self._tokenizer),
        )
        self._raw = RawCalls(
            loaded,
            self._kv,
            self._scheduler,
            samplers.make,
            quotas,
            self._adapters,
            step_tokens=step_tokens,
            queue=queue,
        )

    @property
    def busy(self) -> bool:
        """Whether there is a step to make."""
        return bool(self._scheduler.running or self._scheduler.waiting or self._raw.embedding)

    @property
    def may_get_turns(self) -> bool:
        """Whether there is a conversation that makes no reply."""
        return len(self._dialogues) > len(self._dialogues.replies)

    def handle(self, command: Command) -> list[Event]:
        """Do what the parent asks."""
        match command:
            case Open() | Send() | Follow() | Fork() | Rewind() | Close():
                return self._dialogues.handle(command)
            case Cancel():
                return self._dialogues.cancel(command.call) or self._raw.cancel(command.call)
            case Tokenize() | Generate() | Take() | Embed() | LoadAdapters():
                return self._raw.handle(command)
            case Share():
                return self._share(command)
            case Count():
                return [Counted(command.call, self._tokenizer.count(command.text))]
            case ReadStats():
                return [StatsRead(command.call, self._stats())]
            case Start():  # which came before there was a core
                return []

    def step(self) -> list[Event]:
        """Decode one batch and sample from it, and work on an embedding where one is wanted."""
        events: list[Event] = [
            self._fail(generation, TimedOut("the deadline passed before the reply was complete"))
            for generation in self._scheduler.expired(time.monotonic())
        ]
        step = self._speculation.extend(self._scheduler.schedule())
        return [*events, *(self._decode(step) if step else ()), *self._raw.embed(self._stepper.threads)]

    def _decode(self, step: list[Work]) -> list[Event]:
        try:
            outputs = self._stepper.run(step)
        except llama.LlamaError as error:
            return self._lose(error)
        self._spill.prefill_token = self._scheduler.prefill_seconds
        failures: list[tuple[Generation, PromptdError]] = []
        for work, index in outputs:
            sampled: list[int] = []
            try:
                for token, logits in self._draw(work, index):
                    sampled.append(token)
                    if not self._advance(work.generation, token, logits):
                        break
            except PromptdError as error:
                failures.append((work.generation, error))
            self._speculation.verified(work, sampled)
        if self.loaded.info.device != "GPU":  # idle cells cost a GPU other, unmeasured time
            self._kv.decoded(len(outputs))
        events = [*self._dialogues.flush(), *self._raw.flush()]
        return [*events, *(self._fail(generation, error) for generation, error in failures)]

    def _draw(self, work: Work, index: int) -> Iterator[tuple[int, int]]:
        """Sample after the work's tokens, and after each of its guesses that was sampled; yield tokens with the index
        of their logits.
        """
        sampler, context = work.generation.sampler, self.loaded.context
        for offset in range(len(work.draft) + 1):
            token = sampler.sample(context, index + offset)
            self._scheduler.sampled(work.generation)
            yield token, index + offset
            if offset < len(work.draft) and token != work.draft[offset]:
                return

    def _advance(self, generation: Generation, token: int, index: int) -> bool:
        """Take a sampled token; return whether the reply goes on in this step."""
        if isinstance(generation, RawGeneration):
            return self._raw.advance(generation, token)
        return self._dialogues.advance(generation, token, index)

    def _fail(self, generation: Generation, error: PromptdError) -> Failed:
        """End a reply with an error, and forget it."""
        if isinstance(generation, RawGeneration):
            return self._raw.fail(generation, error)
        return self._dialogues.fail(generation, error)

    def _lose(self, error: llama.LlamaError) -> list[Event]:
        """After a step that failed, fail all running replies: the cache may hold anything now. It is refilled as
        turns need it.
        """
        events: list[Event] = [
            self._fail(generation, RuntimeFailure(f"llama.cpp failed in the middle of the reply: {error}"))
            for generation in list(self._scheduler.running)
        ]
        self._kv.clear()
        return events

    def _share(self, command: Share) -> list[Event]:
        """Share the model out anew. What has more tokens than its guest may hold now would never get on, and fails."""
        self._scheduler.set_weights(command.weights)
        self._quotas.update(command.kv_quota, command.kv_quotas)
        return [
            self._fail(each, TooLarge("the guest's kv-quota was lowered, and the conversation is longer than that now"))
            for each in (*self._dialogues.replies, *self._raw.replies)
            if not each.limit(self._quotas.context(each.sequence.guest, self.loaded.info.context))
        ]

    def _stats(self) -> EngineStats:
        counters, scheduler, kv, info = self._scheduler.counters, self._scheduler, self._kv, self.loaded.info
        return EngineStats(
            worker_pid=os.getpid(),
            rss=_resident_bytes(),
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            generated_tokens=counters.generated_tokens,
            steps=counters.steps,
            batch_width_sum=sum(width * steps for width, steps in counters.widths.items()),
            batch_widths=dict(counters.widths),
            drafted_tokens=self._speculation.drafted,
            accepted_tokens=self._speculation.accepted,
            threads=self._stepper.threads,
            thread_changes=self._stepper.thread_changes,
            tokens_per_second=scheduler.throughput.rate(time.monotonic()),
            turns=counters.turns,
            evictions=kv.evictions,
            preemptions=counters.preemptions,
            queue=len(scheduler.waiting),
            running=len(scheduler.running),
            resident=kv.resident,
            retired=kv.retired,
            spilled=self._spill.spilled,
            saved=self._spill.saved,
            restored=self._spill.restored,
            spill_memory=self._spill.memory,
            spill_disk=self._spill.disk,
            sequences=len(self._dialogues),
            kv_used=kv.used,
            kv_total=kv.total,
            kv_bytes=info.kv_bytes,
            model_bytes=info.model_bytes,
            holders=self._dialogues.holders,
        )


def _resident_bytes() -> int:
    """Return this process's resident bytes; where /proc is missing (macOS), the most it ever had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read in every stats call
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
