"""GGUF models under WasmEdge's conventions: what a guest configures, prompts and reads by tensors, on the engine.

Semantics are those of WasmEdge's plugins/wasi_nn/GGML (compute_engine.cpp, input_processor.cpp, output_generator.cpp).
Where a compute there clears the KV cache, here the engine finds what it still holds of the prompt: the reply is the
same, and earlier.
"""

from __future__ import annotations

import re
from array import array

import msgspec

from promptd.backends.text import Allowance
from promptd.backends.wasmedge_options import defaults_of, read_options
from promptd.chat import Usage
from promptd.config import GraphSettings
from promptd.engine.adapters import Adapters
from promptd.engine.client import Engine
from promptd.engine.messages import RawEnd
from promptd.engine.rawreply import RawReply
from promptd.errors import ContextFull, InvalidArgument, PromptTooLong, RuntimeFailure, TooLarge

CONTEXT_STEP = 256
"""llama.cpp rounds a context up to a multiple of this (llama-context.cpp)."""
CONTEXT_RESERVE = 4
"""Tokens of the context a prompt has to leave free (compute_engine.cpp)."""
SETTLE_S = 2.0
"""How long a cancelled reply is waited for, to count what it cost; it ends within a step of the engine."""
STEPS_AHEAD = 32
"""How many tokens a reply made by steps may be ahead of its guest, who may want no more of it."""
BUILD_NUMBER = 0
"""llama.cpp's number for a build that does not know its own, as llama-cpp-python's (cmake/build-info.cmake)."""

_IMAGE = re.compile(rb'<img src="data:image/[^"]*;base64,')
"""An image in a prompt, as WasmEdge cuts it out (input_processor.cpp)."""


class GgmlTextModel:
    """A model with one guest's options."""

    def __init__(
        self, engine: Engine, settings: GraphSettings, config: bytes, guest: str, adapters: Adapters = ()
    ) -> None:
        """Raises InvalidArgument, InvalidEncoding for options that cannot be taken."""
        self.engine = engine
        self.adapters = adapters
        self.options, self.reply_options = defaults_of(settings)
        if config:
            self.options, self.reply_options = read_options(config, self.options, self.reply_options, guest=guest)

    @property
    def limit(self) -> int:
        """Tokens of prompt and reply together."""
        room, wanted = self.engine.info.context, self.options.context
        return min(room, -(-wanted // CONTEXT_STEP) * CONTEXT_STEP) if wanted else room

    def context(self, guest: str) -> GgmlTextContext:
        """Open a context for `guest`."""
        return GgmlTextContext(self, guest)


class GgmlTextContext:
    """One prompt and the reply to it; see TextContext."""

    def __init__(self, model: GgmlTextModel, guest: str) -> None:
        self._model = model
        self._engine = model.engine
        self._guest = guest
        self._reply_options = model.reply_options
        self._prompt: array[int] | None = None
        self._prompt_tokens = 0
        self._output = bytearray()
        self._output_tokens = 0
        self._last_piece = b""
        self._vector: array[float] | None = None
        self._reply: RawReply | None = None
        """The reply that is being made, whole or by steps."""
        self._cancelled = False
        self.usage = Usage(prompt=0, cached=0, generated=0)

    def configure(self, config: bytes) -> None:
        """Change the options of the model, and of this context those that are its own."""
        model = self._model
        model.options, self._reply_options = read_options(config, model.options, self._reply_options, guest=self._guest)

    def set_prompt(self, data: bytes) -> None:
        """Tokenise a prompt; one that is far too long only fails in `compute`, as every prompt that is too long."""
        if _IMAGE.search(data):
            raise InvalidArgument("promptd takes no images, and there is one in the prompt")
        self._stop_steps()
        try:
            self._prompt = self._engine.tokenize(data, add_special=True, parse_special=True)
            self._prompt_tokens = len(self._prompt)
        except TooLarge:
            self._prompt = array("i")
            self._prompt_tokens = max(len(data) // 4, self._engine.info.context)

    def compute(self, allowance: Allowance) -> None:
        """Make the whole reply, or the embedding."""
        prompt = self._begin()
        if self._model.options.embedding:
            self._embed(prompt, allowance)
            return
        options = self._reply_options
        if options.predict == 0:
            return
        reply = self._generate(prompt, allowance, options.predict, options.reverse_prompt, ahead=None)
        try:
            while (piece := reply.next_piece()) is not None:
                self._take(piece)
                if options.stream_stdout:
                    allowance.print(piece)
        finally:
            self._stop_steps()
        self._check_end(reply.end)

    def step(self, allowance: Allowance) -> bool:
        """Make the next token. As in WasmEdge, `n-predict`, `reverse-prompt` and `stream-stdout` do not count here."""
        if self._reply is None:
            prompt = self._begin()
            if self._model.options.embedding:
                raise InvalidArgument("an embedding is not made token by token; use compute")
            self._generate(prompt, allowance, -1, "", ahead=STEPS_AHEAD)
        reply = self._reply
        assert reply is not None
        try:
            piece = reply.next_piece()
        except BaseException:
            self._stop_steps()
            raise
        if piece is not None:
            self._take(piece)
        if (end := reply.end) is None:
            return True
        self._stop_steps()
        if end is RawEnd.MAX_TOKENS and piece is not None:
            return True  # The allowance has run out; the next step begins anew, and is told so.
        self._check_end(end)
        return False

    def finish_steps(self) -> None:
        """End the reply made by steps, and forget it."""
        self._stop_steps()
        self._clear()

    def output(self) -> bytes:
        """Return the reply so far, or the embedding."""
        return bytes(self._output)

    def last_piece(self) -> bytes:
        """Return the last token of the reply."""
        return self._last_piece

    def metadata(self) -> bytes:
        """Return token counts and llama.cpp's version, in WasmEdge's very format."""
        return (
            f'{{"input_tokens": {self._prompt_tokens}, "output_tokens": {self._output_tokens}, '
            f'"llama_build_number": {BUILD_NUMBER}, "llama_commit": "{self._engine.info.llama_commit}"}}'
        ).encode()

    def vector(self) -> array[float] | None:
        """Return the embedding the last compute made, or None if it made a reply."""
        return self._vector

    def cancel(self) -> None:
        """End the running compute or step, and let none begin; from any thread."""
        self._cancelled = True
        if (reply := self._reply) is not None:
            reply.cancel()

    def close(self) -> None:
        """Free what the context holds."""
        self.cancel()
        self._stop_steps()

    def _begin(self) -> array[int]:
        """Return the prompt, with what the last reply left cleared; raises for a prompt that cannot be computed."""
        self._stop_steps()
        self._clear()
        if self._prompt is None:
            raise InvalidArgument("there is no prompt: set input 0 first")
        limit = self._model.limit
        if self._prompt_tokens > limit - CONTEXT_RESERVE:
            raise PromptTooLong(
                f"the prompt has {self._prompt_tokens} tokens; a context of {limit} takes {limit - CONTEXT_RESERVE}"
            )
        return self._prompt

    def _generate(
        self, prompt: array[int], allowance: Allowance, predict: int, reverse_prompt: str, *, ahead: int | None
    ) -> RawReply:
        model = self._model
        limits = [predict] if predict >= 0 else []
        if allowance.tokens is not None:
            limits.append(allowance.tokens - len(prompt))
            if limits[-1] <= 0:
                raise TooLarge("the token limit is reached")
        sampling = msgspec.structs.replace(model.options.sampling, max_tokens=min(limits, default=None))
        reply = self._engine.generate(
            self._guest,
            prompt,
            sampling,
            reverse_prompt=reverse_prompt.encode(),
            context=model.limit,
            ahead=ahead,
            deadline=allowance.deadline,
            adapters=model.adapters,
        )
        self._reply = reply
        if self._cancelled:
            reply.cancel()
        return reply

    def _embed(self, prompt: array[int], allowance: Allowance) -> None:
        options = self._model.options
        if len(prompt) > options.batch:
            raise PromptTooLong(f"the text has {len(prompt)} tokens, and batch-size is {options.batch}")
        if allowance.tokens is not None and len(prompt) > allowance.tokens:
            raise TooLarge("the token limit is reached")
        self._vector = self._engine.embed(prompt, pooling=options.pooling, deadline=allowance.deadline)
        self.usage += Usage(prompt=len(prompt), cached=0, generated=0)
        values = ",".join(f"{value:.10g}" for value in self._vector)
        self._output += f'{{"n_embedding": {len(self._vector)}, "embedding": [{values}]}}'.encode()

    def _take(self, piece: bytes) -> None:
        self._output += piece
        self._output_tokens += 1
        self._last_piece = piece

    def _clear(self) -> None:
        self._output = bytearray()
        self._output_tokens = 0
        self._last_piece = b""
        self._vector = None

    def _stop_steps(self) -> None:
        """Let go of the reply being made; one that has not ended is cancelled, which takes a step of the engine."""
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.cancel()
            if (cost := reply.settle(SETTLE_S)) is not None:
                self.usage += cost

    def _check_end(self, end: RawEnd | None) -> None:
        if end is RawEnd.CONTEXT_FULL:
            raise ContextFull(f"the context of {self._model.limit} tokens is full; the reply is not complete")
        if end is RawEnd.CANCELLED:
            raise RuntimeFailure("the reply was cancelled")
