"""What the worker does for callers that work on tokens themselves: it tokenises, replies to bare tokens, and embeds.

The replies run in the same scheduler, KV cache and steps as those of conversations.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from promptd.engine.embedding import Embedder
from promptd.engine.kvcache import KVCache
from promptd.engine.llama import Vocabulary
from promptd.engine.llama_adapters import LoadedAdapters
from promptd.engine.loading import Loaded
from promptd.engine.messages import (
    Accepted,
    AdaptersLoaded,
    Embed,
    Embedded,
    Event,
    Failed,
    Generate,
    LoadAdapters,
    RawEnd,
    RawEnded,
    RawPieces,
    Take,
    Tokenize,
    Tokenized,
)
from promptd.engine.options import Sampling
from promptd.engine.quota import Quotas
from promptd.engine.raw import RawGeneration, RawSequences
from promptd.engine.sampling import Sampler
from promptd.engine.scheduler import Scheduler
from promptd.engine.transcript import TOKEN_CODE
from promptd.errors import InvalidArgument, PromptdError, TimedOut, TooLarge, code_of

RawCommand = Tokenize | Generate | Take | Embed | LoadAdapters


class RawCalls:
    """The calls of one worker that are about bare tokens."""

    def __init__(
        self,
        loaded: Loaded,
        kv: KVCache,
        scheduler: Scheduler,
        sampler: Callable[[Sampling, array[int]], Sampler],
        quotas: Quotas,
        adapters: LoadedAdapters,
        *,
        step_tokens: int,
        queue: int,
    ) -> None:
        """`sampler` makes the sampler of a reply to a prompt."""
        self._vocabulary: Vocabulary = loaded.model.vocabulary
        self._context = loaded.info.context
        self._kv = kv
        self._quotas = quotas
        self._adapters = adapters
        self._scheduler = scheduler
        self._sampler = sampler
        self._sequences = RawSequences(kv, self._vocabulary)
        self._pieces: list[tuple[int, bytes]] = []
        self._stopped: list[tuple[RawGeneration, bytes, RawEnd | None]] = []
        """Replies that go no further in this step, with the last token and why they end; None only pauses one."""
        self._embedder = Embedder(
            loaded.model,
            step_tokens=step_tokens,
            threads=loaded.info.threads,
            offload=loaded.info.device == "GPU",
            queue=queue,
        )

    @property
    def replies(self) -> list[RawGeneration]:
        """Those that have not ended, paused ones too."""
        return list(self._sequences.running.values())

    @property
    def embedding(self) -> bool:
        """Whether there is an embedding to work on."""
        return self._embedder.busy

    def handle(self, command: RawCommand) -> list[Event]:
        """Do what the parent asks."""
        try:
            match command:
                case Tokenize():
                    tokens = self._vocabulary.tokenize_bytes(
                        command.data, add_special=command.add_special, parse_special=command.parse_special
                    )
                    return [Tokenized(command.call, tokens.tobytes())]
                case Embed():
                    self._embedder.submit(command.call, _tokens(command.tokens), command.pooling, command.deadline)
                    return []
                case LoadAdapters():
                    self._adapters.load(command.adapters)
                    return [AdaptersLoaded(command.call)]
                case Generate():
                    self._generate(command)
                    return [Accepted(command.call)]
                case Take():
                    return self._take(command)
        except PromptdError as error:
            return [Failed(command.call, code_of(error).name, str(error))]

    def cancel(self, call: int) -> list[Event]:
        """End a reply or forget an embedding; nothing if it has ended."""
        self._embedder.cancel(call)
        if (generation := self._sequences.running.get(call)) is None:
            return []
        return [self._end(generation, RawEnd.CANCELLED, None)]

    def advance(self, generation: RawGeneration, token: int) -> bool:
        """Take a token that was sampled in this step; return whether the reply goes on in it."""
        piece, end = self._sequences.advance(generation, token)
        if end is None:
            self._pieces.append((generation.call, piece))
            if not generation.is_ahead:
                return True
        self._stopped.append((generation, piece, end))
        return False

    def flush(self) -> list[Event]:
        """Return what one step has come to, after its last token."""
        pieces, stopped = tuple(self._pieces), self._stopped[:]
        self._pieces.clear()
        self._stopped.clear()
        events: list[Event] = [RawPieces(pieces)] if pieces else []
        for generation, piece, end in stopped:
            if end is not None:
                events.append(self._end(generation, end, piece))
            else:
                generation.paused = True
                # At a guess that held it has yet to sample: the cell of its last token is computed again for that.
                self._kv.truncate(generation.sequence, len(generation.sequence.tokens) - 1)
                self._scheduler.remove(generation)
        return events

    def fail(self, generation: RawGeneration, error: PromptdError) -> Failed:
        """End a reply with an error."""
        self._let_go(generation)
        return Failed(generation.call, code_of(error).name, str(error))

    def embed(self, threads: int) -> list[Event]:
        """Work on embeddings for one step of so many threads, which replies that are being made hardly notice."""
        if not self._embedder.busy:
            return []
        self._embedder.set_threads(threads)
        return [
            Failed(call, code_of(outcome).name, str(outcome))
            if isinstance(outcome, PromptdError)
            else Embedded(call, outcome.tobytes())
            for call, outcome in self._embedder.step(self._scheduler.spare_tokens)
        ]

    def _generate(self, command: Generate) -> None:
        tokens = _tokens(command.tokens)
        context = self._quotas.context(command.guest, min(command.context or self._context, self._context))
        if not tokens:
            raise InvalidArgument("the prompt is empty")
        if min(tokens) < 0 or max(tokens) >= self._vocabulary.size:
            raise InvalidArgument("the prompt holds a token the model does not have")
        if len(tokens) >= context:
            raise TooLarge(f"the prompt is {len(tokens)} tokens, and the context holds {context} with its reply")
        if command.deadline is not None and time.monotonic() >= command.deadline:
            raise TimedOut("the deadline passed before the reply began")
        self._adapters.load(command.adapters)
        sampler = self._sampler(command.sampling, tokens)
        sequence = self._sequences.begin(command.guest, tokens, command.adapters)
        generation = RawGeneration(
            command.call,
            sequence,
            tokens,
            command.sampling,
            sampler,
            reverse_prompt=command.reverse_prompt,
            ahead=command.ahead,
            context=context,
            deadline=command.deadline,
        )
        try:
            self._scheduler.submit(generation)
        except PromptdError:
            self._sequences.keep(sequence)
            raise
        self._sequences.running[command.call] = generation

    def _end(self, generation: RawGeneration, end: RawEnd, piece: bytes | None) -> RawEnded:
        self._let_go(generation)
        return RawEnded(generation.call, piece, end, generation.usage)

    def _take(self, command: Take) -> list[Event]:
        """Let a paused reply go on when it is no longer ahead."""
        generation = self._sequences.running.get(command.call)
        if generation is None:
            return []
        generation.taken += command.tokens
        if generation.paused and not generation.is_ahead:
            try:
                self._scheduler.submit(generation)
                generation.paused = False
            except PromptdError as error:
                return [self.fail(generation, error)]
        return []

    def _let_go(self, generation: RawGeneration) -> None:
        if not generation.paused:
            self._scheduler.remove(generation)
        self._sequences.end(generation)


def _tokens(data: bytes) -> array[int]:
    return array(TOKEN_CODE, data)
