"""Every failure in OpenAI's shape, with its status, and one that clients know by class."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel, ValidationError
from serving import Served, serving

from promptd.config import GraphSettings, KeySettings, ServerSettings, Settings
from promptd.server.embeddings import EmbeddingsRequest
from promptd.server.keys import key_hash
from promptd.server.ollama import ChatBody
from promptd.server.response_request import ResponsesRequest
from promptd.server.schemas import ChatRequest

MANY = 10_000
ASK: Any = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role", "Input should be"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "text only"),
        ({"messages": [{"content": "a"}]}, "messages.0.role", "required"),
        ({"stop": [3]}, "stop.0", "string"),
        ({"stop": {}}, "stop", "string"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        ({"temperature": -1}, "temperature", "greater"),
        ({"model": None}, "model", "string"),
    ],
)
def test_a_wrong_field_is_named(served: Served, fields: dict[str, Any], param: str, words: str) -> None:
    response = served.http.post("/v1/chat/completions", json={"model": "chat", "messages": ASK, **fields})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"] and "function-" not in error["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": ASK, "functions": []}),
        ("/v1/completions", {"prompt": "a", "echo": True}),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}),
        ("/v1/responses", {"input": "a", "background": True}),
        ("/api/generate", {"prompt": "a", "suffix": "b"}),
        ("/api/generate", {"prompt": "a", "images": ["AA=="]}),
    ],
)
def test_a_field_that_is_refused_may_be_left_out(served: Served, path: str, fields: dict[str, Any]) -> None:
    response = served.http.post(path, json={"model": "chat", **fields})
    *_, refused = fields
    assert response.status_code == 400
    assert f"{refused}: this daemon does not support it; leave it out" in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/embeddings", 405),
        ("POST", "/v1/audio/speech", 404),
        ("GET", "/v1/models/nobody", 404),
    ],
)
def test_what_is_not_there_is_said_not_to_be(served: Served, method: str, path: str, status: int) -> None:
    response = served.http.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    if status == 405:
        assert response.headers["allow"] == "POST"
        assert response.json()["error"]["message"].endswith("but POST")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe{", b'{"seed": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_object_is_refused(served: Served, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/api/chat", "/api/pull"):
        response = served.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400, (path, response.text)
        assert response.json()["error"]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (EmbeddingsRequest, {"input": [-1] * MANY}),
        (ChatRequest, {"messages": [{}] * MANY}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [{}] * MANY}]}),
        (ChatRequest, {"messages": ASK, "logit_bias": {f"x{index}": 1 for index in range(MANY)}}),
        (ResponsesRequest, {"input": [{}] * MANY}),
        (ResponsesRequest, {"input": "a", "metadata": {f"x{index}": 1 for index in range(MANY)}}),
        (ChatBody, {"messages": [{}] * MANY}),
    ],
)
def test_a_body_full_of_mistakes_is_refused_for_the_first(model: type[BaseModel], fields: dict[str, Any]) -> None:
    # An error for each of millions takes gigabytes, and all clients wait meanwhile.
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"model": "chat", **fields})
    assert caught.value.error_count() < 10


def test_openais_client_knows_every_failure_by_its_class() -> None:
    keys = (
        KeySettings(name="often", sha256=key_hash("often"), requests_per_minute=1),
        KeySettings(name="admin", sha256=key_hash("admin"), scopes=("admin",)),
    )
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, server=ServerSettings(keys=keys))
    with serving(settings) as running:

        def ask(key: str, model: str = "echo") -> str | None:
            client = running.openai.with_options(api_key=key)
            return client.chat.completions.create(model=model, messages=ASK).choices[0].message.content

        with pytest.raises(openai.AuthenticationError) as unknown:
            ask("nobody")
        assert unknown.value.code == "invalid_api_key"
        with pytest.raises(openai.PermissionDeniedError, match="chat"):
            ask("admin")
        assert ask("often") == "hi"
        with pytest.raises(openai.RateLimitError) as limited:
            ask("often")
        assert limited.value.code == "rate_limit_exceeded"
        assert int(limited.value.response.headers["retry-after"]) > 0
