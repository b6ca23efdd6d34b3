"""Ollama's routes, for its clients: chat, generate, and the lists of models, over the same conversations.

https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from promptd.chat import ChatOptions, Completion, Message, StopReason
from promptd.errors import PromptdError
from promptd.server.conversations import Conversations
from promptd.server.engines import info_of
from promptd.server.errors import NotOffered, UnknownModel
from promptd.server.replies import stream, whole
from promptd.server.schemas import MAX_STOP_SEQUENCES, ChatMessage, Text
from promptd.wasm.host import Host

_LATEST = ":latest"
"""The tag Ollama's clients add to a name that has none."""

_SEEDS = 2**32


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Options(_Body):
    """How a reply is sampled; what is left out is the graph's own setting. -1 and -2 tokens are "no limit"."""

    num_predict: int | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOP_SEQUENCES)] | None = None

    def chat_options(self) -> ChatOptions:
        """Return what promptd's lower floors call these options."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return ChatOptions(
            max_tokens=self.num_predict if self.num_predict and self.num_predict > 0 else None,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=None if self.seed is None else self.seed % _SEEDS,
            stop=None if stop is None else tuple(text for text in stop if text),
        )


class ChatBody(_Body):
    """The body of `POST /api/chat`."""

    model: Text
    messages: list[ChatMessage] = []
    stream: bool = True
    options: Options | None = None
    format: Literal[""] | None = None


class GenerateBody(_Body):
    """The body of `POST /api/generate`."""

    model: Text
    prompt: Text = ""
    system: Text | None = None
    stream: bool = True
    options: Options | None = None
    format: Literal[""] | None = None


class ModelBody(_Body):
    """The body of `POST /api/show`; older clients say `name`."""

    model: Text = ""
    name: Text = ""


def ollama_router(host: Host, conversations: Conversations) -> APIRouter:
    """Return the routes under `/api`."""
    router = APIRouter(prefix="/api", tags=["ollama"])
    started = _now()

    async def answer(
        request: Request, body: ChatBody | GenerateBody, messages: Sequence[Message], shape: str
    ) -> Response:
        lines = _Lines(body.model, shape)
        model = _name(body.model)
        if not messages:  # Ollama's way to load a model ahead of time
            await conversations.load(model)
            return JSONResponse(lines.line("", done=True, done_reason="load"))
        last = next((message.content for message in reversed(messages) if message.role == "user"), "")
        conversation = await conversations.open(model, only_message=last)
        options = (body.options or Options()).chat_options()
        try:
            turn = await conversation.start(messages, options, ended=lambda _: conversation.close())
        except BaseException:
            conversation.close()
            raise
        if body.stream:
            return await stream(request, turn, lines)
        completion = await whole(request, turn)
        return JSONResponse({**lines.last(completion), **lines.content(completion.text)})

    @router.post("/chat")
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer the messages of one request."""
        return await answer(request, body, [message.as_message() for message in body.messages], "chat")

    @router.post("/generate")
    async def generate(body: GenerateBody, request: Request) -> Response:
        """Answer one prompt, through the model's chat template."""
        system = [Message("system", body.system)] if body.system else []
        user = [Message("user", body.prompt)] if body.prompt else []
        return await answer(request, body, [*system, *user] if user else [], "generate")

    @router.post("/embed", status_code=501)
    async def embed() -> Response:
        """Embeddings are not offered here."""
        raise NotOffered("promptd does not offer embeddings over HTTP yet")

    @router.get("/tags")
    async def tags() -> dict[str, Any]:
        """List the graphs, and the guests as `guest/NAME`."""
        return {"models": [_model(host, name) | {"modified_at": started} for name in conversations.models()]}

    @router.get("/ps")
    async def ps() -> dict[str, Any]:
        """List the graphs whose models are loaded; they stay loaded."""
        never = "9999-12-31T23:59:59Z"
        return {"models": [_model(host, name) | {"expires_at": never} for name in host.loaded_graphs()]}

    @router.post("/show")
    async def show(body: ModelBody) -> dict[str, Any]:
        """Describe one model; one that is loaded in more detail."""
        name = _name(body.model or body.name)
        if name not in conversations.models():
            raise UnknownModel(name)
        info = info_of(host.loaded_graphs().get(name))
        about = {
            "general.architecture": info.architecture,
            "general.parameter_count": info.parameters,
            f"{info.architecture}.context_length": info.n_ctx_train,
        } if info else {}  # fmt: skip
        template = info.template if info and info.template else ""
        return {**_model(host, name), "model_info": about, "template": template, "capabilities": ["completion"],
                "parameters": "", "modelfile": "", "modified_at": started}  # fmt: skip

    @router.get("/version")
    async def read_version() -> dict[str, str]:
        """Return promptd's version."""
        return {"version": version("promptd")}

    return router


class _Lines:
    """The stream of one reply: JSON objects, one in each line."""

    media_type = "application/x-ndjson"
    keep_alive = b""

    def __init__(self, model: str, shape: str) -> None:
        self._model = model
        self._shape = shape
        self._began = time.perf_counter_ns()
        self._first: int | None = None

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        self._first = self._first or time.perf_counter_ns()
        return _encoded(self.line(text))

    def end(self, completion: Completion) -> bytes:
        return _encoded(self.last(completion))

    def fail(self, error: PromptdError) -> bytes:
        return _encoded({"error": str(error)})

    def line(self, text: str, **more: Any) -> dict[str, Any]:
        head = {"model": self._model, "created_at": _now(), "done": False}
        return {**head, **self.content(text), **more}

    def content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self._shape == "chat" else {"response": text}

    def last(self, completion: Completion) -> dict[str, Any]:
        """Return the last line; durations are nanoseconds."""
        now = time.perf_counter_ns()
        first = self._first or now
        cut = completion.stop_reason in (StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL)
        return self.line(
            "",
            done=True,
            done_reason="length" if cut else "stop",
            total_duration=now - self._began,
            load_duration=0,
            prompt_eval_count=completion.usage.prompt,
            prompt_eval_duration=first - self._began,
            eval_count=completion.usage.generated,
            eval_duration=now - first,
        )


def _model(host: Host, name: str) -> dict[str, Any]:
    info = info_of(host.loaded_graphs().get(name))
    details = {
        "parent_model": "",
        "format": "gguf" if info else "",
        "family": info.architecture if info else "",
        "families": [info.architecture] if info else [],
        "parameter_size": f"{info.parameters / 1e6:.0f}M" if info else "",
        "quantization_level": "",
    }
    size = info.model_bytes if info else 0
    context = {"context_length": info.context} if info else {}
    return {"name": name, "model": name, "size": size, "size_vram": 0, "digest": "", "details": details, **context}


def _name(model: str) -> str:
    return model.removesuffix(_LATEST)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
