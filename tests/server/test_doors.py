"""Requests that are refused: each gets one clear sentence in OpenAI's shape, and none a 500."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from serving import Served

from promptd.server.doors import MAX_BODY_BYTES, MAX_HEADER_BYTES, MAX_JSON_DEPTH, is_deeper, is_loopback

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HI}, "model"),
        ({"model": "echo"}, "messages"),
        ({"model": "echo", "messages": []}, "messages"),
        ({"model": "echo", "messages": "hi"}, "messages"),
        ({"model": "echo", "messages": [{"role": "king", "content": "hi"}]}, "messages.0.role"),
        ({"model": "echo", "messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"model": "echo", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"model": "echo", "messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
        ({"model": "echo", "messages": HI, "max_tokens": "5"}, "max_tokens"),
        ({"model": "echo", "messages": HI, "max_tokens": 0}, "max_tokens"),
        ({"model": "echo", "messages": HI, "temperature": -1}, "temperature"),
        ({"model": "echo", "messages": HI, "top_p": 2}, "top_p"),
        ({"model": "echo", "messages": HI, "stream": "yes"}, "stream"),
        ({"model": "echo", "messages": HI, "n": 0}, "n"),
        ({"model": "echo", "messages": HI, "n": 1000}, "n"),
        ({"model": "echo", "messages": HI, "response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_a_wrong_field_is_named(served: Served, body: Any, param: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = served.http.post("/v1/chat/completions", content=json.dumps(body), headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"1e999", b"\xff", b'{"model": "echo"', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_body_that_is_no_json_object_is_refused(served: Served, body: bytes) -> None:
    response = served.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_body_without_its_content_type_is_refused(served: Served) -> None:
    """A web page can send `text/plain` across origins without asking; JSON it cannot."""
    response = served.http.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


def test_an_unknown_model_is_not_found(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9") as caught:
        served.openai.chat.completions.create(model="gpt-9", messages=HI)
    assert caught.value.code == "model_not_found"
    assert served.complete("guest/", "hi").status_code == 404
    assert served.complete("guest/../echo", "hi").status_code == 404


def test_a_prompt_that_cannot_fit_is_too_large(served: Served) -> None:
    for stream in (False, True):
        response = served.complete("chat", "dogs " * 20_000, stream=stream)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too-large"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(served: Served, announced: bool) -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    chunks = body if announced else iter([body[i : i + 2**20] for i in range(0, len(body), 2**20)])
    response = served.http.post("/v1/chat/completions", content=chunks, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]
    assert served.complete("echo", "hi").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8040", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_foreign_host_header_is_refused(served: Served, host: str) -> None:
    response = served.http.get("/v1/models", headers={"Host": host})
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8040", "127.0.0.1:1", "[::1]:8040", "chat.localhost", "10.1.2.3"]
)
def test_an_address_or_localhost_is_a_fine_host_header(served: Served, host: str) -> None:
    assert served.http.get("/healthz", headers={"Host": host}).json() == {"status": "ok"}


def test_no_page_of_another_origin_may_read_replies(served: Served) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = served.http.options("/v1/chat/completions", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/healthz", 405)])
def test_unknown_paths_and_methods_get_openais_shape(served: Served, method: str, path: str, status: int) -> None:
    response = served.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.com", False)],
)  # fmt: skip
def test_loopback_is_told_from_what_others_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("body", "deeper"),
    [
        (b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH, False),
        (b"[" * (MAX_JSON_DEPTH + 1), True),
        (b'{"a":' * (MAX_JSON_DEPTH + 1), True),
        (b"[" + b"{}," * 100 + b"]", False),
        (b'["' + b"[{" * 100 + b'"]', False),
        (b'["\\"' + b"[{" * 100 + b'"]', False),
        (b'["\\\\",' + b"[" * 100, True),
    ],
)
def test_brackets_in_strings_are_no_levels(body: bytes, deeper: bool) -> None:
    assert is_deeper(body, MAX_JSON_DEPTH) is deeper


def test_a_body_that_nests_too_deep_says_so(served: Served) -> None:
    body = json.dumps({"model": "echo", "messages": HI, "extra": eval("[" * 80 + "]" * 80)})
    headers = {"Content-Type": "application/json"}
    response = served.http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    assert f"more than {MAX_JSON_DEPTH} levels" in response.json()["error"]["message"]


def test_headers_over_the_limit_are_refused(served: Served) -> None:
    assert served.http.get("/healthz", headers={"X-Long": "a" * MAX_HEADER_BYTES}).status_code == 431
    assert served.http.get("/healthz").status_code == 200
