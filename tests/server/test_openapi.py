"""/openapi.json against the daemon: no request makes it fail, and replies are as described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Served, serving
from tiny_model import write_tiny_model
from wat_guests import HANDLER, LINES

from promptd.config import GraphSettings, GuestSettings, Settings, UploadSettings

EXAMPLES = 3
"""Requests of each kind for each operation; many more were sent by hand."""
MODELS = ("echo", "tiny", "guest/handler", "guest/lines")
CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)


@schemathesis.serializer("application/wasm")
def _wasm(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a daemon whose model is quick."""
    folder = tmp_path_factory.mktemp("described")
    tiny = write_tiny_model(folder / "tiny.gguf")
    guests = {}
    for name, text in (("handler", HANDLER), ("lines", LINES)):
        guests[name] = GuestSettings(file=_written(folder / f"{name}.wat", text))
    graphs = {"echo": GraphSettings(model="echo"), "tiny": GraphSettings(model=f"file:{tiny}", max_tokens=5)}
    uploads = UploadSettings(folder=folder / "uploads")
    with serving(Settings(graphs=graphs, guests=guests, uploads=uploads)) as running:
        yield running


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_no_request_fails_and_every_reply_is_as_described(described: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{described.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    sent = 0

    def send(case: Any) -> None:
        nonlocal sent
        sent += 1
        if isinstance(case.body, dict) and "model" in case.body:
            # A name made up is of no model; nothing is to be looked for on the real hub.
            case.body["model"] = "nothing" if case.path == "/api/pull" else MODELS[sent % len(MODELS)]
        case.call_and_validate(checks=CHECKS, timeout=120)

    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _examples(given(operation.as_strategy(generation_mode=mode))(send))()
            except Unsatisfiable:  # nothing can be wrong with a request that has no parameters
                assert mode is GenerationMode.NEGATIVE
    assert sent > 100


_examples = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_the_document_needs_no_other_machine_and_names_what_is_sent(described: Served) -> None:
    document = described.http.get("/openapi.json").json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][body]["properties"]
    assert {"model", "messages", "tools", "response_format", "logit_bias"} <= set(fields)
    assert set(chat["responses"]) == {"200", "4XX", "5XX"}
    assert "http" not in document.get("servers", [{"url": ""}])[0]["url"]
    for path in ("/docs", "/redoc"):
        assert described.http.get(path).status_code == 404
