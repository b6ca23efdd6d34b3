"""Translates every failure into OpenAI's error shape, with the status from the table in `promptd.errors`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from promptd.errors import (
    Busy,
    InvalidArgument,
    NotFound,
    PromptdError,
    SecurityDenied,
    Unavailable,
    Unknown,
    code_of,
)

RETRY_AFTER_S = 1
"""What a busy daemon asks a client to wait; replies last seconds, so places free up at that pace."""

OLLAMA_PREFIX = "/api/"

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_log = logging.getLogger(__name__)


class InvalidField(InvalidArgument):
    """A field of the request is wrong; `param` is its path, for example `messages.0.role`."""

    def __init__(self, sentence: str, param: str) -> None:
        super().__init__(sentence)
        self.param = param


class UnknownModel(NotFound):
    """`model` names neither a graph nor a guest of this daemon."""

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model!r} does not exist here; GET /v1/models lists those that do")


class TurnRunning(Busy):
    """The session is still busy with an earlier message."""

    def __init__(self) -> None:
        super().__init__("this session is still answering; wait for the end of that reply, or close its connection")


class InvalidKey(SecurityDenied):
    """The request carries no API key, or one that is not known."""

    def __init__(self, given: str) -> None:
        super().__init__(
            "this daemon does not know this API key; `promptd key NAME` makes one, for its promptd.toml"
            if given
            else "this daemon asks for an API key: send it as Authorization: Bearer KEY, or as X-Api-Key"
        )


class ScopeMissing(SecurityDenied):
    """The client's key does not allow this."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs an API key with the scope {scope!r}")


class RateLimited(Busy):
    """The key has been used more than its settings allow; `retry_after_s` says when it may be used again."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(f"{sentence}; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class TooManySessions(Busy):
    """The key, or the guest, has as many sessions as its settings allow."""


class NameTaken(InvalidArgument):
    """There is a guest of that name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a guest {name} already; delete it, or choose another name")


class Forgotten(NotFound):
    """Events of a session that a client comes back for are no longer kept."""

    def __init__(self, first: int) -> None:
        super().__init__(
            f"what came next is no longer kept: the first event that is has the number {first}; a reply's last event "
            "has the whole of its text"
        )


_STATUSES: dict[type[PromptdError], int] = {
    TurnRunning: 409,
    NameTaken: 409,
    InvalidKey: 401,
    RateLimited: 429,
    TooManySessions: 429,
    Forgotten: 410,
    Unavailable: 503,
}
"""Statuses of errors that are the server's own affair; those of all others are in the table of `promptd.errors`."""

_CODES: dict[type[PromptdError], str] = {
    UnknownModel: "model_not_found",
    InvalidKey: "invalid_api_key",
    RateLimited: "rate_limit_exceeded",
}
"""OpenAI's codes, which clients compare with, where there is one."""


def status_of(error: PromptdError) -> int:
    """Return the HTTP status for `error`."""
    return _STATUSES.get(type(error)) or code_of(error).http


def error_body(error: PromptdError) -> dict[str, Any]:
    """Return `error` as OpenAI's `{"error": {...}}`; the same object is the data of an error event in a stream."""
    param = "model" if isinstance(error, UnknownModel) else getattr(error, "param", None)
    code = _CODES.get(type(error)) or code_of(error).name
    return _body(str(error), status_of(error), param=param, code=code)


def error_response(error: PromptdError, path: str) -> JSONResponse:
    """Return the response that a request for `path` is answered with after `error`."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, InvalidKey) else {}
    if isinstance(error, (RateLimited, Unavailable)):
        headers["Retry-After"] = str(error.retry_after_s)
    return _response(path, error_body(error), status_of(error), headers)


def as_promptd_error(error: BaseException) -> PromptdError:
    """Return `error` if it was raised on purpose; anything else is logged and becomes Unknown, which tells nothing."""
    if isinstance(error, PromptdError):
        return error
    _log.error("a request failed with an unexpected error", exc_info=error)
    return Unknown("promptd failed in a way it did not expect; its log has the details")


def install_error_handlers(app: FastAPI) -> None:
    """Make `app` answer every failure in OpenAI's shape."""

    @app.exception_handler(PromptdError)
    async def on_promptd_error(request: Request, error: PromptdError) -> JSONResponse:
        return error_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        if error.body is not None and not isinstance(error.body, dict):
            sentence, param = "the body must be a JSON object, sent with Content-Type: application/json", None
        else:
            sentence, param = _validation(error.errors(), error.body)
        return _response(request.url.path, _body(sentence, 400, param=param, code="invalid-argument"), 400)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
            error.detail = f"there is nothing at {request.url.path}"
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another method")
            error.detail = f"{request.url.path} does not answer {request.method}, but {allowed}"
        return _response(
            request.url.path, _body(error.detail, error.status_code), error.status_code, dict(error.headers or {})
        )

    @app.exception_handler(Exception)
    async def on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        error = Unknown("promptd failed in a way it did not expect; its log has the details")
        return error_response(error, request.url.path)


def _body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _response(path: str, body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    if path.startswith(OLLAMA_PREFIX):  # whose clients want the sentence alone
        body = {"error": body["error"]["message"]}
    headers = dict(headers or {})
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return JSONResponse(body, status, headers)


def _validation(errors: Sequence[dict[str, Any]], body: Any) -> tuple[str, str | None]:
    """Return one sentence for the first thing that is wrong in `body`, and the path of the field it is about.

    Where a field may be one of several types, pydantic has an error for each; the one deepest in the field is of the
    type that was meant.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON: {first['ctx']['error']}", None
    paths = [list(_path(error["loc"], body, missing=error["type"] == "missing")) for error in errors]
    same = [index for index, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    meant = max(same, key=lambda index: len(paths[index]))
    path = ".".join(paths[meant]) or None
    reason = _reason(errors[meant])
    return (f"{path}: {reason}" if path else f"the body is wrong: {reason}"), path


def _reason(error: dict[str, Any]) -> str:
    """Return what pydantic's `error` says; a field that may only be left out is told so."""
    context = error.get("ctx", {})
    refused = (
        error["type"] == "none_required"
        or (error["type"] == "literal_error" and context["expected"] == "False")
        or (error["type"] in ("too_long", "string_too_long") and context["max_length"] == 0)
    )
    if refused:
        return "this daemon does not support it; leave it out"
    return str(error["msg"]).removeprefix("Value error, ")


def _path(location: Sequence[str | int], body: Any, *, missing: bool) -> Iterator[str]:
    """Yield what of pydantic's `location` is in `body`, or `missing` there; the rest names alternatives of a type."""
    place, *parts = location
    if place != "body":
        yield from map(str, parts)
        return
    for index, part in enumerate(parts, 1):
        within: Any = body if isinstance(body, dict) else dict(enumerate(body)) if isinstance(body, list) else {}
        if part in within:
            body = within[part]
        elif not (missing and index == len(parts)):
            continue
        yield str(part)
