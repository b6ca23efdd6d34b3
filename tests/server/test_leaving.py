"""Clients, guests and workers that leave in the middle of a reply."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import Served, serving, wait_until

from promptd.config import GraphSettings, GuestSettings, ServerSettings, Settings

ENDLESS = 1500
"""Tokens of a reply nobody waits for."""

QUESTION: Any = {"messages": [{"role": "user", "content": "Are dogs real?"}], "stream": True}


@pytest.fixture(scope="module")
def rambling(smollm2: Path, guest_files: dict[str, Path], built_guest: Callable[[str], Path]) -> Iterator[Served]:
    """Return a daemon whose graph `chat` is too hot to make sense, and does not take the tokens that end a reply."""
    chat = GraphSettings(
        model=f"file:{smollm2}",
        temperature=5,
        top_k=0,
        top_p=1,
        min_p=0,
        max_tokens=ENDLESS,
        context=2048,
        logit_bias={"0": -100, "2": -100, "4": -100},
    )
    guests = {
        "handler": GuestSettings(file=guest_files["handler"]),
        "persona": GuestSettings(file=built_guest("persona"), graphs=("chat",)),
    }
    server = ServerSettings(session_grace=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("promptd.engine.crashes.CRASH_WINDOW_S", 0.0)  # its worker is killed more often than is forgiven
        with serving(Settings(graphs={"chat": chat}, guests=guests, server=server)) as running:
            yield running


def _no_sequences(served: Served) -> None:
    wait_until(lambda: (served.stats().running, served.stats().sequences) == (0, 0))


def _kill_worker(served: Served, number: int = signal.SIGKILL) -> None:
    worker = served.stats().worker_pid
    assert worker
    os.kill(worker, number)


def test_a_client_that_leaves_frees_the_sequences_of_all_choices(rambling: Served) -> None:
    before = rambling.stats().generated_tokens
    with rambling.streaming("/v1/chat/completions", {"model": "chat", "n": 3, **QUESTION}) as stream:
        while {chunk["choices"][0]["index"] for _, chunk in (next(stream) for _ in range(8))} != {0, 1, 2}:
            pass
    _no_sequences(rambling)
    assert rambling.stats().generated_tokens - before < ENDLESS


@pytest.mark.parametrize("model", ["chat", "guest/persona"])
def test_a_client_that_leaves_a_stream_frees_its_sequence(rambling: Served, model: str) -> None:
    before = rambling.stats().generated_tokens
    with rambling.streaming("/v1/chat/completions", {"model": model, **QUESTION}) as stream:
        for _ in range(3):
            next(stream)
        assert rambling.stats().running == 1
    _no_sequences(rambling)
    assert rambling.stats().generated_tokens - before < ENDLESS


def test_a_client_that_leaves_while_it_waits_for_a_whole_reply_frees_its_sequence(rambling: Served) -> None:
    before = rambling.stats().generated_tokens
    with pytest.raises(httpx2.ReadTimeout):
        rambling.http.post("/v1/chat/completions", json={"model": "chat", **QUESTION, "stream": False}, timeout=1)
    _no_sequences(rambling)
    assert rambling.stats().generated_tokens - before < ENDLESS


def test_a_client_that_leaves_a_graphs_session_can_come_back(rambling: Served) -> None:
    session = rambling.open(graph="chat")
    for _ in range(2):
        with rambling.streaming(f"/v1/sessions/{session}/messages", {"content": "Are dogs real?"}) as stream:
            assert next(stream)[0] == "piece"
        wait_until(lambda: not rambling.http.get(f"/v1/sessions/{session}").json()["busy"])
    assert rambling.http.get(f"/v1/sessions/{session}").json()["turns"] == 0
    rambling.http.delete(f"/v1/sessions/{session}")
    _no_sequences(rambling)


def test_a_reply_that_is_cancelled_frees_its_sequence_and_leaves_the_session_as_it_was(rambling: Served) -> None:
    session = rambling.open(graph="chat")
    with rambling.streaming(f"/v1/sessions/{session}/messages", {"content": "Are dogs real?"}) as stream:
        next(stream)
        assert rambling.http.post(f"/v1/sessions/{session}/cancel").json() == {"cancelled": True}
        *_, (event, message) = stream
    assert (event, message["stop_reason"]) == ("message", "cancelled")
    described = rambling.http.get(f"/v1/sessions/{session}").json()
    assert (described["turns"], described["busy"]) == (0, False)
    rambling.http.delete(f"/v1/sessions/{session}")
    _no_sequences(rambling)


@pytest.mark.parametrize(("guest", "content"), [("handler", "#loop forever"), ("persona", "Are dogs real?")])
def test_a_client_that_leaves_stops_its_guest(rambling: Served, guest: str, content: str) -> None:
    session = rambling.open(guest=guest)
    with rambling.streaming(f"/v1/sessions/{session}/messages", {"content": content}) as stream:
        next(stream)
    wait_until(lambda: not rambling.http.get(f"/v1/sessions/{session}").json()["busy"])
    _no_sequences(rambling)
    assert rambling.http.get(f"/v1/sessions/{session}").json()["turns"] == 0
    with rambling.streaming(f"/v1/sessions/{session}/messages", {"content": content}) as stream:
        assert next(stream)[0] == "piece", "a fresh instance takes its place"


@pytest.mark.parametrize("target", [{"graph": "chat"}, {"guest": "persona"}])
def test_a_worker_that_is_killed_costs_one_reply(rambling: Served, target: dict[str, str]) -> None:
    session = rambling.open(**target)
    path, body = f"/v1/sessions/{session}/messages", {"content": "Are dogs real?"}
    with rambling.streaming(path, body) as stream:
        assert next(stream)[0] == "piece"
        _kill_worker(rambling)
        *_, (event, data) = stream
    assert event == "error"
    assert data["error"]["code"] == "runtime-error"
    with rambling.streaming(path, body) as stream:
        assert next(stream)[0] == "piece"
    assert rambling.complete("chat", "Are you there?", max_tokens=3).status_code == 200
    rambling.http.delete(f"/v1/sessions/{session}")
    _no_sequences(rambling)


def test_a_model_that_keeps_crashing_is_unavailable_for_as_long_as_the_answer_says(
    rambling: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptd.engine.crashes.CRASH_WINDOW_S", 30.0)
    monkeypatch.setattr("promptd.engine.crashes.MAX_CRASHES", 1)
    assert rambling.complete("chat", "Are you there?", max_tokens=3).status_code == 200
    with rambling.streaming("/v1/chat/completions", {"model": "chat", **QUESTION}) as stream:
        next(stream)
        _kill_worker(rambling, signal.SIGSEGV)
        *_, (_, data) = stream
    assert "SIGSEGV" in data["error"]["message"]
    for path in ("/v1/chat/completions", "/api/chat"):
        refused = rambling.http.post(path, json={"model": "chat", **QUESTION, "stream": False})
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert "it is started again in" in refused.text


def test_a_worker_that_is_killed_ends_an_openai_stream_with_an_error(rambling: Served) -> None:
    with rambling.streaming("/v1/chat/completions", {"model": "chat", **QUESTION}) as stream:
        for _ in range(3):
            next(stream)
        _kill_worker(rambling)
        *_, (_, data) = stream
    assert data["error"]["type"] == "server_error"
