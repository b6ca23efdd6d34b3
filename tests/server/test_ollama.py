"""Ollama's routes, through Ollama's own client."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import pytest
from serving import Served

QUESTION = [{"role": "user", "content": "Are dogs real?"}]


@pytest.fixture
def client(served: Served) -> Iterator[ollama.Client]:
    yield ollama.Client(host=served.url)


def test_chat_answers_as_openais_route(client: ollama.Client, served: Served) -> None:
    reply = client.chat("chat", QUESTION, options={"num_predict": 12})
    direct = served.complete("chat", "Are dogs real?", max_tokens=12).json()
    assert reply.message.content == direct["choices"][0]["message"]["content"]
    assert (reply.done, reply.done_reason) == (True, "length")
    assert (reply.eval_count, reply.prompt_eval_count) == (12, direct["usage"]["prompt_tokens"])


def test_chat_streams(client: ollama.Client) -> None:
    parts = list(client.chat("chat", QUESTION, stream=True, options={"num_predict": 12}))
    assert len(parts) > 8
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    whole = client.chat("chat", QUESTION, options={"num_predict": 12})
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].eval_count == 12 and parts[-1].total_duration


def test_generate_takes_a_prompt_and_a_system_message(client: ollama.Client) -> None:
    assert client.generate("echo", "hello").response == "hello"
    assert client.generate("guest/handler", "hello", system="be brief").response == "1/2 hello"
    parts = [part.response for part in client.generate("echo:latest", "streamed", stream=True)]
    assert "".join(parts) == "streamed"


def test_an_empty_prompt_loads_the_model(client: ollama.Client) -> None:
    assert client.generate("chat", "").done_reason == "load"
    assert "chat" in [model.model for model in client.ps().models]


def test_models_are_listed_and_shown(client: ollama.Client, served: Served) -> None:
    assert {"chat", "echo", "guest/lines"} <= {model.model for model in client.list().models}
    client.generate("chat", "")
    shown = client.show("chat")
    assert shown.details and shown.details.family == "llama"
    assert shown.modelinfo and shown.modelinfo["general.parameter_count"] > 1e8
    assert served.http.get("/api/version").json()["version"]
    assert served.http.head("/").status_code == 200


@pytest.mark.parametrize(
    ("model", "content", "status", "words"),
    [("nobody", "hi", 404, "nobody"), ("chat", "dogs " * 20_000, 413, "tokens")],
)
def test_errors_are_one_sentence(client: ollama.Client, model: str, content: str, status: int, words: str) -> None:
    with pytest.raises(ollama.ResponseError, match=words) as caught:
        client.chat(model, [{"role": "user", "content": content}])
    assert caught.value.status_code == status
    with pytest.raises(ollama.ResponseError, match=words):
        list(client.chat(model, [{"role": "user", "content": content}], stream=True))
