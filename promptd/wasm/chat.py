"""Faces of promptd's own package `promptd:prompt@0.1.0`: roles, options, streaming, usage (wit/promptd-prompt.wit)."""

from __future__ import annotations

from typing import Any

from wasmtime.component import Record, Variant

from promptd.chat import ChatOptions, Completion, Message
from promptd.errors import PromptdError, code_of
from promptd.wasm.face import Face, record, variant
from promptd.wasm.held import ChatReply, ChatSession
from promptd.wasm.nn import Nn

ERROR_CASES = ("invalid-argument", "not-found", "too-large", "busy", "timeout", "security", "runtime-error")
"""The cases of `chat.error`; an error of another code is the nearest of them."""

_OTHER_CASES = {"invalid-encoding": "invalid-argument", "unsupported-operation": "invalid-argument"}


def error(failed: PromptdError) -> Variant:
    """Spell an error as the variant `chat.error`."""
    name = code_of(failed).name
    return variant(name if name in ERROR_CASES else _OTHER_CASES.get(name, "runtime-error"), str(failed))


def _options(given: Record | None) -> ChatOptions:
    if given is None:
        return ChatOptions()
    fields: dict[str, Any] = vars(given)
    return ChatOptions(
        max_tokens=fields["max-tokens"],
        temperature=fields["temperature"],
        top_k=fields["top-k"],
        top_p=fields["top-p"],
        min_p=fields["min-p"],
        repeat_penalty=fields["repeat-penalty"],
        seed=fields["seed"],
        stop=tuple(fields["stop"]) or None,
        grammar=fields["grammar"],
        json_schema=fields["json-schema"],
    )


def _messages(given: list[Any]) -> list[Message]:
    return [Message(message.role, message.content) for message in given]


def _completion(completion: Completion) -> Record:
    usage = completion.usage
    return record(
        text=completion.text.encode(errors="replace").decode(),
        stop_reason=completion.stop_reason.value,
        usage=record(prompt_tokens=usage.prompt, cached_tokens=usage.cached, generated_tokens=usage.generated),
    )


def _open(nn: Nn, graph: str, options: Record | None) -> ChatSession:
    return nn.open_chat(graph, _options(options))


def _send(nn: Nn, session: ChatSession, messages: list[Any]) -> Record:
    return _completion(nn.send(session, _messages(messages)))


def _stream(nn: Nn, session: ChatSession, messages: list[Any]) -> ChatReply:
    return nn.stream(session, _messages(messages))


def _finish(nn: Nn, reply: ChatReply) -> Record:
    return _completion(nn.finish(reply))


TYPES = Face({})

CHAT = Face(
    {
        "[static]session.open": _open,
        "[method]session.send": _send,
        "[method]session.stream": _stream,
        "[method]session.fork": Nn.fork,
        "[method]session.rewind": Nn.rewind,
        "[method]reply.next": Nn.next_piece,
        "[method]reply.finish": _finish,
    },
    {"session": ChatSession, "reply": ChatReply},
    error,
)

TOKENS = Face({"count": Nn.count_tokens}, {}, error)

OUTPUT = Face({"write": lambda nn, text: nn.write(text)})
