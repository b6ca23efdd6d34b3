"""What the worker does for conversations: each has its past as text and tokens, and at most one reply being made.

The replies run in the same scheduler, KV cache and steps as those to bare tokens.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
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
    Close,
    Ended,
    Event,
    Failed,
    Follow,
    Fork,
    Open,
    Pieces,
    Rewind,
    Scored,
    Send,
)
from promptd.engine.options import Sampling
from promptd.engine.quota import Quotas
from promptd.engine.sampling import Sampler
from promptd.engine.scheduler import Scheduler
from promptd.engine.sequence import Sequence
from promptd.engine.statistics import KVHolder
from promptd.engine.tokenizer import Fragment
from promptd.engine.transcript import Transcript, common_prefix
from promptd.errors import InvalidArgument, PromptdError, TimedOut, code_of

DialogueCommand = Open | Send | Follow | Fork | Rewind | Close


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


class Dialogues:
    """The conversations of one worker."""

    def __init__(
        self,
        loaded: Loaded,
        kv: KVCache,
        scheduler: Scheduler,
        sampler: Callable[[Sampling, array[int]], Sampler],
        quotas: Quotas,
        adapters: LoadedAdapters,
        builders: PromptBuilders,
    ) -> None:
        """`sampler` makes the sampler of a reply to a prompt."""
        self._loaded = loaded
        self._kv = kv
        self._scheduler = scheduler
        self._sampler = sampler
        self._quotas = quotas
        self._adapters = adapters
        self._builders = builders
        self._dialogues: dict[int, _Dialogue] = {}
        self._calls: dict[int, _Dialogue] = {}
        self._scored: list[Event] = []
        self._pieces: list[tuple[int, str]] = []
        self._ended: list[tuple[Generation, StopReason]] = []
        """What the tokens of this step have added."""

    def __len__(self) -> int:
        return len(self._dialogues)

    @property
    def replies(self) -> list[Generation]:
        """Those that have not ended."""
        return [dialogue.generation for dialogue in self._calls.values() if dialogue.generation]

    @property
    def holders(self) -> tuple[KVHolder, ...]:
        """The conversations that hold KV cells."""
        return tuple(
            KVHolder(number, len(dialogue.sequence.cells), dialogue.generation is not None)
            for number, dialogue in self._dialogues.items()
            if dialogue.sequence.cells
        )

    def handle(self, command: DialogueCommand) -> list[Event]:
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
            case Fork():
                if dialogue := self._dialogues.get(command.conversation):
                    self._fork(dialogue, command.copy)
            case Rewind():
                if dialogue := self._dialogues.get(command.conversation):
                    self._rewind(dialogue, command.turns)
            case Close():
                return self._close(command.conversation)
        return []

    def cancel(self, call: int) -> list[Event]:
        """End a reply, which is forgotten; nothing if it has ended."""
        dialogue = self._calls.get(call)
        return self._end(dialogue, StopReason.CANCELLED) if dialogue else []

    def advance(self, generation: Generation, token: int, index: int) -> bool:
        """Take a token that was sampled in this step from the logits at `index`; return whether the reply goes on in
        it.
        """
        vocabulary = self._loaded.model.vocabulary
        if generation.logprobs is not None:
            from promptd.engine.llama_logprobs import logprob_of  # with numpy, which other replies need not wait for

            generation.score(logprob_of(self._loaded.context, vocabulary, index, token, generation.logprobs))
        text, reason = generation.advance(token, vocabulary.piece(token), is_end=vocabulary.is_end(token))
        if generation.logprobs is not None:
            if (logprobs := generation.scored(text, reason)) or text:
                self._scored.append(Scored(generation.call, text, logprobs))
        elif text and (told := generation.tell(text)):
            self._pieces.append((generation.call, told))
        if reason:
            self._ended.append((generation, reason))
        return reason is None

    def flush(self) -> list[Event]:
        """Return what one step has come to, after its last token."""
        events = self._scored[:]
        if self._pieces:
            events.append(Pieces(tuple(self._pieces)))
        ended = self._ended[:]
        for each in (self._scored, self._pieces, self._ended):
            each.clear()
        for generation, reason in ended:
            events += self._end(self._calls[generation.call], reason)
        return events

    def fail(self, generation: Generation, error: PromptdError) -> Failed:
        """End a reply with an error, and forget it."""
        dialogue = self._calls[generation.call]
        self._detach(dialogue)
        self._settle(dialogue)
        return _failure(generation.call, error)

    def _send(self, command: Send) -> None:
        dialogue = self._dialogues.get(command.conversation)
        if dialogue is None:  # another thread has closed it meanwhile
            raise InvalidArgument("the conversation is closed")
        if command.deadline is not None and time.monotonic() >= command.deadline:
            raise TimedOut("the deadline passed before the reply began")
        self._adapters.load(dialogue.sequence.adapters)
        context = self._quotas.context(dialogue.sequence.guest, self._loaded.info.context)
        prompt = self._builders.builder(dialogue.template, context).build(
            dialogue.transcript,
            dialogue.transcript.history(),
            dialogue.rendered,
            command.messages,
            overflow=dialogue.overflow,
            max_tokens=command.sampling.max_tokens,
        )
        try:
            sampler = self._sampler(command.sampling, prompt.tokens)
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

    def _public(self, dialogue: _Dialogue, prompt: array[int]) -> int:
        """Return how many tokens at the beginning of a prompt are the operator's own, and marked as shared."""
        if dialogue.public is None:
            return 0
        opened = dialogue.transcript.opened
        return common_prefix(prompt, self._builders.preamble(dialogue.template, dialogue.public, opened))


def _failure(call: int, error: PromptdError) -> Failed:
    return Failed(call, code_of(error).name, str(error))
