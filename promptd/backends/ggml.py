"""The ggml backend: graphs that are GGUF models, executed by llama.cpp in the engine's worker process.

Here a graph's settings meet a conversation's options; graphs that load the same file in the same way share one engine.
"""

from __future__ import annotations

import copy
import threading
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from promptd.backends.base import Embedding
from promptd.backends.ggml_tensors import GgmlExecution
from promptd.backends.ggml_text import GgmlTextModel
from promptd.backends.lora import adapters_of
from promptd.backends.sampling import sampling_of
from promptd.chat import ChatOptions, Message, Tool
from promptd.config import EngineSettings, GraphSettings
from promptd.engine.adapters import Adapters
from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.crashes import Crashes
from promptd.engine.kv_size import ModelShape
from promptd.engine.memory import MemoryBudget
from promptd.engine.messages import POOLING_MODEL_OR_MEAN
from promptd.engine.reply import Reply
from promptd.engine.statistics import EngineInfo, EngineStats
from promptd.engine.transcript import TOKEN_CODE
from promptd.errors import InvalidArgument, TooLarge, UnsupportedOperation

EngineKey = tuple[Path, Literal["cpu", "gpu", "auto"], int | None, EngineSettings, int | None, Path | None]
"""What decides how a model is loaded: file, target, context, the worker's settings, a limit of the KV cache, and the
draft model.
"""


class GgmlPrompt:
    """One conversation of a guest with the graph's model."""

    def __init__(self, conversation: Conversation, settings: GraphSettings, options: ChatOptions) -> None:
        self._conversation = conversation
        self._settings = settings
        self._options = options

    def send(
        self,
        messages: Sequence[Message],
        options: ChatOptions = ChatOptions(),
        *,
        deadline: float | None = None,
    ) -> Reply:
        """Append `messages` and start the reply; see PromptContext."""
        sampling = sampling_of(self._settings, self._options, options)
        return self._conversation.send(messages, sampling, deadline=deadline)

    def fork(self) -> GgmlPrompt:
        """Return a second conversation with the same past, which costs no prefill."""
        return GgmlPrompt(self._conversation.fork(), self._settings, self._options)

    def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns."""
        self._conversation.rewind(turns)

    def close(self) -> None:
        """Free what the conversation holds."""
        self._conversation.close()


class GgmlGraph:
    """A GGUF model with the settings of one graph."""

    def __init__(
        self,
        path: Path,
        settings: GraphSettings,
        engine: EngineSettings,
        *,
        kv_bytes: int | None = None,
        draft: Path | None = None,
        shape: ModelShape | None = None,
    ) -> None:
        """Load the model, or take it from a graph that has it loaded; raises what Engine raises.

        `kv_bytes` limits the KV cache of a model nobody vouches for; `draft` is the file of the draft model; `shape` is
        what the file says of its KV cache.
        """
        self._settings = settings
        self._key: EngineKey = (path.resolve(), settings.target, settings.context, engine.of_worker, kv_bytes, draft)
        self._path = path
        self._engine = _ENGINES.acquire(self._key, path, engine, shape)
        self._lease = weakref.finalize(self, _release_soon, self._key)
        self._lease.atexit = False
        self._original: GgmlGraph | None = None
        """Kept referred to, since the lease ends with it."""
        try:
            self._adapters = self._load_adapters(settings)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """What the model is, and how it runs."""
        return self._engine.info

    @property
    def settings(self) -> GraphSettings:
        """The options its contexts are opened with."""
        return self._settings

    @property
    def facts(self) -> dict[str, str]:
        """What a guest may know of the model: what kind it is, and how it takes prompts."""
        info = self.info
        template = "auto" if info.has_template and self._settings.template == "auto" else "none"
        return {"architecture": info.architecture, "context": str(info.context), "template": template}

    def configured(self, settings: GraphSettings) -> GgmlGraph:
        """Return this graph with other options, on the same engine. Of the two only one may be closed.

        The adapters too may be others, which only an operator can say; raises what `adapters_of` raises.
        """
        other = copy.copy(self)
        other._settings = settings
        other._original = self
        if settings.lora != self._settings.lora:
            other._adapters = self._load_adapters(settings)
        return other

    def _load_adapters(self, settings: GraphSettings) -> Adapters:
        if not settings.lora:
            return ()
        adapters = adapters_of(settings.lora, self._path)
        self._engine.load_adapters(adapters)
        return adapters

    def stats(self) -> EngineStats:
        """Return the counters of the engine, which other graphs of the same model share."""
        return self._engine.stats()

    def prompt_context(
        self, guest: str, options: ChatOptions = ChatOptions(), *, tools: Sequence[Tool] = ()
    ) -> GgmlPrompt:
        """Open a conversation for `guest`; `options` hold for all its turns. Raises InvalidArgument for options out of
        range, UnsupportedOperation for tools without a chat template.
        """
        settings = self._settings
        if tools and self.facts["template"] == "none":
            raise UnsupportedOperation("this graph has no chat template, so its model cannot be told of tools")
        sampling_of(settings, options)
        conversation = self._engine.conversation(
            guest,
            template=settings.template,
            system=settings.system,
            overflow=settings.overflow,
            share_system=settings.share_system,
            tools=tuple(tools),
            adapters=self._adapters,
        )
        return GgmlPrompt(conversation, settings, options)

    def execution_context(self, guest: str) -> GgmlExecution:
        """Open an execution context, which takes a prompt as a U8 tensor; see ggml_tensors."""
        return GgmlExecution(self._engine, self._settings, guest, self._adapters)

    def text_model(self, config: bytes, guest: str) -> GgmlTextModel:
        """Return the model under WasmEdge's conventions; see TextGraph."""
        return GgmlTextModel(self._engine, self._settings, config, guest, self._adapters)

    def raw_context(self, guest: str) -> GgmlPrompt:
        """Open a conversation for `guest` in which the model goes on with text as it is, without its chat template."""
        conversation = self._engine.conversation(guest, template="none", adapters=self._adapters)
        return GgmlPrompt(conversation, self._settings, ChatOptions())

    def embed(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        truncate: bool = False,
        tokens: int | None = None,
        deadline: float | None = None,
    ) -> list[Embedding]:
        """Return the embeddings of texts, whose special tokens are not parsed, or of tokens; see Embeds."""
        most = self._engine.max_embed_tokens
        inputs = [self._tokens(text)[: most if truncate else None] for text in texts]
        if tokens is not None and sum(map(len, inputs)) > tokens:
            raise TooLarge(f"the texts have {sum(map(len, inputs))} tokens, and {tokens} are left of the limit")
        vectors = self._engine.embed_all(inputs, pooling=POOLING_MODEL_OR_MEAN, deadline=deadline)
        return [Embedding(vector, len(given)) for vector, given in zip(vectors, inputs, strict=True)]

    def _tokens(self, text: str | Sequence[int]) -> array[int]:
        if isinstance(text, str):
            return self._engine.tokenize(text.encode(), parse_special=False)
        if not all(0 <= token < self.info.n_vocab for token in text):
            raise InvalidArgument(f"the model has no such token; its tokens are 0 to {self.info.n_vocab - 1}")
        return array(TOKEN_CODE, text)

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` is, special tokens not parsed."""
        return self._engine.count_tokens(text)

    def keep_alive(self, seconds: float) -> None:
        """Keep the model loaded for so long after its last use, below 0 for ever, until it is loaded anew."""
        self._engine.keep_alive(seconds)

    def close(self) -> None:
        """Unload the model, unless another graph uses it; a graph nobody refers to any more does so too. Idempotent."""
        if self._lease.detach():
            _ENGINES.release(self._key)


@dataclass(slots=True)
class _Shared:
    """A loaded engine, or one that is being loaded, and how many graphs hold it."""

    lock: threading.Lock
    engine: Engine | None = None
    holders: int = 0


class _Engines:
    """The engines of this process: each model is loaded once, however many graphs ask, and unloaded with the last
    of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[EngineKey, _Shared] = {}
        self._budget = MemoryBudget()
        self._crashes: dict[EngineKey, Crashes] = {}
        """Of models that have crashed lately: one that crashes whenever it is loaded is given up, too."""

    def acquire(self, key: EngineKey, path: Path, settings: EngineSettings, shape: ModelShape | None) -> Engine:
        """Return the engine for `key`, loading it from `path`, a name of the same file, if nobody has; how guests share
        it is what `settings` of the last caller say.
        """
        with self._lock:
            shared = self._shared.setdefault(key, _Shared(threading.Lock()))
            shared.holders += 1
            kept = {each: crashes for each, crashes in self._crashes.items() if each in self._shared or crashes.any}
            self._crashes = kept
            crashes = self._crashes.setdefault(key, Crashes())
        try:
            with shared.lock:
                if shared.engine is None:
                    _, target, context, _, kv_bytes, draft = key
                    shared.engine = Engine(
                        path,
                        settings,
                        target=target,
                        context=context,
                        kv_bytes=kv_bytes,
                        draft=draft,
                        shape=shape,
                        budget=self._budget,
                        crashes=crashes,
                    )
                else:
                    shared.engine.share(settings)
                return shared.engine
        except BaseException:
            self.release(key)
            raise

    def release(self, key: EngineKey) -> None:
        """Give the engine back; the last to do so closes it."""
        with self._lock:
            shared = self._shared[key]
            shared.holders -= 1
            if shared.holders:
                return
            del self._shared[key]
        if shared.engine is not None:
            shared.engine.close()


_ENGINES = _Engines()


def _release_soon(key: EngineKey) -> None:
    """Give back the engine of a graph that was garbage-collected, on a thread: its collector may hold any lock."""
    threading.Thread(target=_ENGINES.release, args=(key,), name="promptd-unload", daemon=True).start()
