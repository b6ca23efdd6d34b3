"""Embeddings over HTTP, through OpenAI's and Ollama's own clients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from serving import Served, serving
from tiny_model import write_tiny_model

from promptd.config import GraphSettings, Settings

CATS, ALSO_CATS, TAXES = "A cat sleeps.", "A kitten is asleep.", "Taxes are due in April 2025, says the law."


def _likeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_a_batch_of_texts_has_an_embedding_each(served: Served) -> None:
    made = served.openai.embeddings.create(model="chat", input=[CATS, ALSO_CATS, TAXES])
    assert [each.index for each in made.data] == [0, 1, 2]
    cats, also_cats, taxes = (each.embedding for each in made.data)
    assert len(cats) == 576 and math.isclose(_likeness(cats, cats), 1, rel_tol=1e-4)
    assert _likeness(cats, also_cats) > _likeness(cats, taxes)
    assert made.usage.prompt_tokens == made.usage.total_tokens > 10
    alone = served.openai.embeddings.create(model="chat", input=TAXES).data[0].embedding
    assert _likeness(alone, taxes) > 0.999


def test_numbers_and_base64_say_the_same(served: Served) -> None:
    in_base64 = served.openai.embeddings.create(model="chat", input=CATS).data[0].embedding
    as_numbers = served.openai.embeddings.create(model="chat", input=CATS, encoding_format="float").data[0].embedding
    assert in_base64 == pytest.approx(as_numbers)


def test_tokens_are_taken_in_place_of_text(served: Served) -> None:
    one, two = served.openai.embeddings.create(model="chat", input=[[5, 6, 7], [8]]).data
    alone = served.openai.embeddings.create(model="chat", input=[5, 6, 7], dimensions=576)
    assert alone.usage.prompt_tokens == 3
    assert _likeness(alone.data[0].embedding, one.embedding) > 0.999 > _likeness(one.embedding, two.embedding)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": [1 << 30]}, 400, "no such token"),
        ({"input": [[]]}, 400, "input"),
        ({"input": [CATS, 5]}, 400, "input"),
        ({"input": CATS, "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": CATS, "dimensions": 64}, 400, "576 dimensions"),
        ({"model": "nobody"}, 404, "nobody"),
        ({"model": "echo"}, 400, "no embeddings"),
        ({"model": "guest/handler"}, 400, "guest"),
    ],
)
def test_what_has_no_embedding_is_refused(served: Served, fields: dict[str, Any], status: int, words: str) -> None:
    body = {"model": "chat", "input": CATS, **fields}
    response = served.http.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert words in f"{error['param']}: {error['message']}"


def test_ollamas_clients_have_embeddings(served: Served) -> None:
    client = ollama.Client(host=served.url)
    made = client.embed("chat", [CATS, TAXES])
    assert len(made.embeddings) == 2 and made.prompt_eval_count
    old = client.embeddings("chat", CATS)
    assert _likeness(list(old.embedding), list(made.embeddings[0])) > 0.999
    assert client.embed("chat", "").embeddings == []


def test_texts_that_are_too_long_are_cut_or_refused(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny.gguf", context=256)
    with serving(Settings(graphs={"tiny": GraphSettings(model=f"file:{tiny}")})) as running:
        client = ollama.Client(host=running.url)
        assert client.embed("tiny:latest", "cat " * 1000).prompt_eval_count == 256
        with pytest.raises(ollama.ResponseError, match="256"):
            client.embed("tiny", "cat " * 1000, truncate=False)
        with pytest.raises(openai.APIStatusError, match="256") as caught:
            running.openai.embeddings.create(model="tiny", input="cat " * 1000)
        assert caught.value.status_code == 413


def test_the_tokens_of_embeddings_are_counted(served: Served) -> None:
    def counted() -> float:
        lines = served.http.get("/metrics").text.splitlines()
        told = [line for line in lines if line.startswith("promptd_tokens_total{") and 'model="chat"' in line]
        return sum(float(line.split()[-1]) for line in told if 'kind="prompt"' in line)

    before = counted()
    usage = served.openai.embeddings.create(model="chat", input=CATS).usage
    assert counted() == before + usage.prompt_tokens


def test_an_unknown_graph_is_openais_error(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.openai.embeddings.create(model="nobody", input=CATS)
    assert caught.value.code == "model_not_found"
