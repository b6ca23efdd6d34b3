"""What the worker process does, without the process: conversations and the model; commands go in, events come out."""

from __future__ import annotations

import os
import resource
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from promptd.chat import Message, StopReason
from promptd.engine import llama
from promptd.engine.builders import PromptBuilders
from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.llama_adapters import LoadedAdapters
from promptd.engine.loading import Loaded
from promptd.engine.messages import (
    Accepted,
    Cancel,
    Close,
    Command,
    Count,
    Counted,
    Embed,
    Ended,
    Event,
    Failed,
    Follow,
    Fork,
    Generate,
    LoadAdapters,
    Open,
    Pieces,
    ReadStats,
    Rewind,
    Scored,
    Send,
    Share,
    StatsRead,
    Take,
    Tokenize,
)
from promptd.engine.quota import Quotas
from promptd.engine.raw import RawGeneration
from promptd.engine.raw_calls import RawCalls
from promptd.engine.sampling import Samplers
from promptd.engine.scheduler import Scheduler, Work
from promptd.engine.sequence import Sequence
from promptd.engine.speculation import Speculation
from promptd.engine.spill import Spill
from promptd.engine.statistics import EngineStats, KVHolder
from promptd.engine.stepper import Stepper
from promptd.engine.tokenizer import Fragment, Tokenizer
from promptd.engine.transcript import Transcript, common_prefix
from promptd.errors import InvalidArgument, PromptdError, RuntimeFailure, TimedOut, TooLarge, code_of


@dataclass(slots=True)
class _Dialogue:
    """One conversation in the worker: its past as text and tokens, and the reply being made."""

    template: Literal["auto", "none"]
    overflow: Literal["shift", "error"]
    transcript: Transcript
    sequence: Sequence
    public: tuple[Message, ...] | None
    rendered: list[Fragment] | None = None
    """Fragments of the last prompt; None when that is not at hand, and must be rendered again."""
    generation: Generation | None = None


@dataclass(slots=True)
class _Added:
    """What the tokens of one step have added to conversations' replies."""

    events: list[Event] = field(default_factory=list)
    pieces: list[tuple[int, str]] = field(default_factory=list)
    ended: list[tuple[Generation, StopReason]] = field(default_factory=list)


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
        self._builders = PromptBuilders(loaded, self._tokenizer)
        self._dialogues: dict[int, _Dialogue] = {}
        self._calls: dict[int, _Dialogue] = {}
        self._samplers = Samplers(loaded.model.vocabulary, loaded.info.context)
        self._raw = RawCalls(
            loaded,
            self._kv,
            self._scheduler,
            self._samplers.make,
            quotas,
            self._adapters,
            step_tokens=step_tokens,
            queue=queue,
        )

    @property
    def busy(self) -> bool:
        """Whether there is a step to make."""
        return bool(self._scheduler.running or self._scheduler.waiting or self._raw.embedding)

    def handle(self, command: Command) -> list[Event]:
        """Do what the parent asks."""
        match command:
            case Open():
                sequence = Sequence(command.guest, command.transcript.history(), command.adapters)
                self._dialogues[command.conversation] = _Dialogue(
                    command.template, command.overflow, command.transcript, sequence, command.public
                )
            case Send():
                try:
                    self._send(command)
                except PromptdError as error:
                    return [_failure(command.call, error)]
                return [Accepted(command.call)]
            case Follow():
                return self._follow(command.call)
            case Cancel():
                if dialogue := self._calls.get(command.call):
                    return self._end(dialogue, StopReason.CANCELLED)
                return self._raw.cancel(command.call)
            case Tokenize() | Generate() | Take() | Embed() | LoadAdapters():
                return self._raw.handle(command)
            case Fork():
                if dialogue := self._dialogues.get(command.conversation):
                    self._fork(dialogue, command.copy)
            case Rewind():
                if dialogue := self._dialogues.get(command.conversation):
                    self._rewind(dialogue, command.turns)
            case Close():
                return self._close(command.conversation)
            case Share():
                return self._share(command)
            case Count():
                return [Counted(command.call, self._tokenizer.count(command.text))]
            case ReadStats():
                return [StatsRead(command.call, self._stats())]
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
        added = _Added()
        for work, index in outputs:
            sampled: list[int] = []
            failure = None
            try:
                for token, logits in self._draw(work, index):
                    sampled.append(token)
                    if not self._advance(work.generation, token, logits, added):
                        break
            except PromptdError as error:
                failure = error
            self._speculation.verified(work, sampled)
            if failure is not None:
                added.events.append(self._fail(work.generation, failure))
        if added.pieces:
            added.events.append(Pieces(tuple(added.pieces)))
        if self.loaded.info.device != "GPU":  # idle cells cost a GPU other, unmeasured time
            self._kv.decoded(len(outputs))
        for generation, reason in added.ended:
            added.events += self._end(self._calls[generation.call], reason)
        return [*added.events, *self._raw.flush()]

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

    def _advance(self, generation: Generation, token: int, index: int, added: _Added) -> bool:
        """Take a sampled token; return whether the reply goes on in this step."""
        if isinstance(generation, RawGeneration):
            return self._raw.advance(generation, token)
        vocabulary = self.loaded.model.vocabulary
        if generation.logprobs is not None:
            from promptd.engine.llama_logprobs import logprob_of  # with numpy, which other replies need not wait for

            generation.score(logprob_of(self.loaded.context, vocabulary, index, token, generation.logprobs))
        text, reason = generation.advance(token, vocabulary.piece(token), is_end=vocabulary.is_end(token))
        if generation.logprobs is not None:
            if (logprobs := generation.scored(text, reason)) or text:
                added.events.append(Scored(generation.call, text, logprobs))
        elif text and (told := generation.tell(text)):
            added.pieces.append((generation.call, told))
        if reason:
            added.ended.append((generation, reason))
        return reason is None

    def _send(self, command: Send) -> None:
        dialogue = self._dialogues.get(command.conversation)
        if dialogue is None:  # another thread has closed it meanwhile
            raise InvalidArgument("the conversation is closed")
        if command.deadline is not None and time.monotonic() >= command.deadline:
            raise TimedOut("the deadline passed before the reply began")
        self._adapters.load(dialogue.sequence.adapters)
        context = self._quotas.context(dialogue.sequence.guest, self.loaded.info.context)
        prompt = self._builders.builder(dialogue.template, context).build(
            dialogue.transcript,
            dialogue.transcript.history(),
            dialogue.rendered,
            command.messages,
            overflow=dialogue.overflow,
            max_tokens=command.sampling.max_tokens,
        )
        try:
            sampler = self._samplers.make(command.sampling, prompt.tokens)
        except llama.LlamaError as error:
            raise InvalidArgument(str(error)) from error
        dialogue.sequence.public = self._public(dialogue, prompt.tokens)
        generation = Generation(
            command.call,
            dialogue.sequence,
            prompt,
            command.sampling,
            sampler,
            context=context,
            deadline=command.deadline,
        )
        self._scheduler.submit(generation)
        dialogue.generation = generation
        self._calls[command.call] = dialogue

    def _follow(self, call: int) -> list[Event]:
        """Tell what a reply has said so far, and from now on all at once."""
        dialogue = self._calls.get(call)
        if dialogue is None or dialogue.generation is None:
            return []
        text = dialogue.generation.follow()
        return [Pieces(((call, text),))] if text else []

    def _end(self, dialogue: _Dialogue, reason: StopReason) -> list[Event]:
        """End a reply; its turn is remembered, unless it was cancelled."""
        generation = self._detach(dialogue)
        text = generation.follow()
        events: list[Event] = [Pieces(((generation.call, text),))] if text else []
        if reason is StopReason.CANCELLED:
            self._settle(dialogue)
            return [*events, Ended(generation.call, reason, generation.usage, None, 0)]
        turn, prompt = generation.turn(), generation.prompt
        dialogue.transcript.commit(turn, prompt.dropped)
        dialogue.rendered = prompt.fragments
        self._settle(dialogue)
        self._scheduler.counters.turns += 1
        return [*events, Ended(generation.call, reason, generation.usage, turn, prompt.dropped)]

    def _fail(self, generation: Generation, error: PromptdError) -> Failed:
        """End a reply with an error, and forget it."""
        if isinstance(generation, RawGeneration):
            return self._raw.fail(generation, error)
        dialogue = self._calls[generation.call]
        self._detach(dialogue)
        self._settle(dialogue)
        return _failure(generation.call, error)

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

    def _detach(self, dialogue: _Dialogue) -> Generation:
        generation = dialogue.generation
        assert generation is not None
        dialogue.generation = None
        del self._calls[generation.call]
        self._scheduler.remove(generation)
        return generation

    def _settle(self, dialogue: _Dialogue) -> None:
        """Make the sequence what the transcript says: cells of tokens that are not in it are freed."""
        sequence = dialogue.sequence
        history = dialogue.transcript.history()
        computed: array[int] = sequence.tokens[: sequence.computed]
        self._kv.truncate(sequence, common_prefix(computed, history))
        sequence.tokens = history

    def _fork(self, source: _Dialogue, copy: int) -> None:
        sequence = Sequence(source.sequence.guest, source.sequence.tokens[:], source.sequence.adapters)
        self._dialogues[copy] = _Dialogue(
            source.template, source.overflow, source.transcript.fork(), sequence, source.public, source.rendered
        )
        sequence.public = source.sequence.public
        self._kv.share(source.sequence, sequence)

    def _rewind(self, dialogue: _Dialogue, turns: int) -> None:
        dialogue.transcript.rewind(turns)
        dialogue.rendered = None
        self._settle(dialogue)

    def _close(self, conversation: int) -> list[Event]:
        dialogue = self._dialogues.pop(conversation, None)
        if dialogue is None:
            return []
        events = self._end(dialogue, StopReason.CANCELLED) if dialogue.generation else []
        self._kv.retire(dialogue.sequence)
        return events

    def _share(self, command: Share) -> list[Event]:
        """Share the model out anew. What has more tokens than its guest may hold now would never get on, and fails."""
        self._scheduler.set_weights(command.weights)
        self._quotas.update(command.kv_quota, command.kv_quotas)
        replies = [dialogue.generation for dialogue in self._calls.values() if dialogue.generation]
        return [
            self._fail(each, TooLarge("the guest's kv-quota was lowered, and the conversation is longer than that now"))
            for each in (*replies, *self._raw.replies)
            if not each.limit(self._quotas.context(each.sequence.guest, self.loaded.info.context))
        ]

    def _public(self, dialogue: _Dialogue, prompt: array[int]) -> int:
        """Return how many tokens at the beginning of a prompt are the operator's own, and marked as shared."""
        if dialogue.public is None:
            return 0
        opened = dialogue.transcript.opened
        return common_prefix(prompt, self._builders.preamble(dialogue.template, dialogue.public, opened))

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
            holders=tuple(
                KVHolder(number, len(dialogue.sequence.cells), dialogue.generation is not None)
                for number, dialogue in self._dialogues.items()
                if dialogue.sequence.cells
            ),
        )


def _failure(call: int, error: PromptdError) -> Failed:
    return Failed(call, code_of(error).name, str(error))


def _resident_bytes() -> int:
    """Return this process's resident bytes; where /proc is missing (macOS), the most it ever had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read in every stats call
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
