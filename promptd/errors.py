"""One exception per wasi-nn error code, and the one table that maps each to WIT case, core errno and HTTP status.

Errors are raised where they are understood and translated once, at the ABI, CLI or HTTP edge, with this table.
"""

from __future__ import annotations

from dataclasses import dataclass


class PromptdError(Exception):
    """Base of all errors promptd raises on purpose; `str(error)` is one sentence for a person."""

    exit_code = 1
    """What a command that ends with this error exits with."""


class InvalidArgument(PromptdError):
    """An argument is outside what the called function accepts."""


class InvalidEncoding(PromptdError):
    """A model or text is not in the encoding it was said to be in."""


class TimedOut(PromptdError):
    """The deadline passed before the work was done."""


class RuntimeFailure(PromptdError):
    """The backend failed while doing something that was rightly asked of it."""


class Unavailable(RuntimeFailure):
    """The backend has failed too often of late; it is tried again in `retry_after_s` seconds at the earliest."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class UnsupportedOperation(PromptdError):
    """The graph or backend does not offer this operation."""


class TooLarge(PromptdError):
    """Something is larger than a limit; the sentence names the limit."""


class NotFound(PromptdError):
    """The named thing does not exist, or policy hides it."""


class SecurityDenied(PromptdError):
    """Policy forbids this, and saying so leaks nothing."""


class Unknown(PromptdError):
    """A failure that fits no other code."""


class Busy(PromptdError):
    """The resource is in use or the queue is full; the same call may succeed later."""


class ContextFull(TooLarge):
    """The context had no room for the rest of the reply; what there is of it can be read."""


class PromptTooLong(TooLarge):
    """The prompt has more tokens than the context takes."""


class ModelMissing(NotFound):
    """The graph is known and granted, but its model is not there."""


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """How one kind of error is spelt at each edge.

    `name` opens the error strings of the prompt interface ("not-found: ..."); `wit` is the case of
    `wasi:nn/errors.error-code` at 0.2.0-rc-2024-10-28, which has no `busy`; `errno` is the core ABI's number
    (wasi-nn.witx since c1ff124); `http` is the status.
    """

    name: str
    wit: str
    errno: int
    http: int


ERROR_CODES: dict[type[PromptdError], ErrorCode] = {
    InvalidArgument: ErrorCode("invalid-argument", "invalid-argument", 1, 400),
    InvalidEncoding: ErrorCode("invalid-encoding", "invalid-encoding", 2, 400),
    Busy: ErrorCode("busy", "runtime-error", 4, 503),
    TimedOut: ErrorCode("timeout", "timeout", 5, 504),
    RuntimeFailure: ErrorCode("runtime-error", "runtime-error", 5, 500),
    UnsupportedOperation: ErrorCode("unsupported-operation", "unsupported-operation", 6, 400),
    TooLarge: ErrorCode("too-large", "too-large", 7, 413),
    NotFound: ErrorCode("not-found", "not-found", 8, 404),
    SecurityDenied: ErrorCode("security", "security", 8, 403),
    Unknown: ErrorCode("unknown", "unknown", 5, 500),
}
"""`security` shares the core errno of `not-found`, so that a denied name does not differ from an unknown one."""

WASMEDGE_ERRNOS: dict[type[PromptdError], int] = {ContextFull: 101, PromptTooLong: 102, ModelMissing: 103}
"""What WasmEdge answers in place of the core errno (plugins/wasi_nn/wasinntypes.h). Other runtimes' guests do not know
these numbers, so only guests that use WasmEdge's extensions get them."""

END_OF_SEQUENCE = 100
"""WasmEdge's answer to `compute_single` at the end of the reply; not an error."""

BY_NAME: dict[str, type[PromptdError]] = {code.name: kind for kind, code in ERROR_CODES.items()}


def code_of(error: PromptdError) -> ErrorCode:
    """Return the row of the table for `error`, by its nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in ERROR_CODES:
            return ERROR_CODES[kind]
    return ERROR_CODES[Unknown]


def sentence(error: PromptdError) -> str:
    """Return `CODE: sentence`, the error string of the prompt interface (DESIGN 4.3)."""
    return f"{code_of(error).name}: {error}"
