"""Ollama's routes, through Ollama's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    assert reply.eval_duration and reply.prompt_eval_duration and reply.total_duration
    assert reply.eval_duration + reply.prompt_eval_duration == reply.total_duration, "clients divide by them"


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


def test_generate_goes_on_with_a_raw_prompt(client: ollama.Client, served: Served) -> None:
    reply = client.generate("chat", "One, two, three, four,", raw=True, options={"num_predict": 8})
    assert "five" in reply.response
    with pytest.raises(ollama.ResponseError, match="guest"):
        client.generate("guest/handler", "hi", raw=True)


@pytest.mark.parametrize("fields", [{"images": ["aGk="]}, {"suffix": "the end"}, {"format": {"type": "banana"}}])
def test_what_no_model_can_do_here_is_refused(served: Served, fields: dict[str, object]) -> None:
    response = served.http.post("/api/generate", json={"model": "chat", "prompt": "hi", **fields})
    assert response.status_code == 400 and set(response.json()) == {"error"}
    message = {"role": "user", "content": "hi", **fields}
    body = {"model": "chat", "messages": [message], "options": {"num_predict": 1}, **fields}
    assert served.http.post("/api/chat", json=body).status_code == (200 if "suffix" in fields else 400)


def test_curl_is_understood_and_forms_of_web_pages_are_not(served: Served) -> None:
    body = b'{"model": "echo", "prompt": "hi", "stream": false}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for headers in (form, {}):
        assert served.http.post("/api/generate", content=body, headers=headers).json()["response"] == "hi"
    for header, value in (("Origin", "null"), ("Referer", "https://evil.example/"), ("Sec-Fetch-Site", "cross-site")):
        refused = served.http.post("/api/generate", content=body, headers={**form, header: value})
        assert refused.status_code == 400 and "Content-Type" in refused.json()["error"]
    assert served.http.post("/api/generate", content=body, headers={"Content-Type": "text/plain"}).status_code == 400
    assert served.http.post("/v1/completions", content=body, headers=form).status_code == 400


def test_an_empty_prompt_loads_the_model(client: ollama.Client) -> None:
    assert client.generate("chat", "").done_reason == "load"
    assert "chat" in [model.model for model in client.ps().models]


def test_models_are_listed_and_shown(client: ollama.Client, served: Served, smollm2: Path) -> None:
    models = {model.model: model for model in client.list().models}
    assert {"chat", "echo", "guest/lines"} <= set(models)
    chat = models["chat"]
    assert chat.size == smollm2.stat().st_size and chat.modified_at
    assert chat.details and chat.details.quantization_level == "Q4_1" and chat.details.format == "gguf"
    shown = client.show("chat:latest")
    assert shown.capabilities == ["completion"] and "<|im_start|>" in (shown.template or "")
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
