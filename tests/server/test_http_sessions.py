"""/v1/sessions: conversations that live on between requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving import Served, serving, wait_until

from promptd.config import GraphSettings, GuestSettings, ServerSettings, Settings
from promptd.server import documents

QUESTION = "Are dogs real?"


def test_a_handler_keeps_its_instance_and_is_given_the_whole_conversation(served: Served) -> None:
    session = served.open(guest="handler")
    assert served.say(session, "a").json()["content"] == "1/1 a"
    assert served.say(session, "b").json()["content"] == "2/3 b", "second call; three messages: a, the reply, b"
    other = served.open(guest="handler")
    assert served.say(other, "c").json()["content"] == "1/1 c"


def test_a_command_guest_takes_one_line_each_turn(served: Served) -> None:
    session = served.open(guest="lines")
    assert [served.say(session, line).json()["content"] for line in ("one", "zwei é")] == ["said: one", "said: zwei é"]
    refused = served.say(session, "two\nlines")
    assert refused.status_code == 400 and "one line" in refused.json()["error"]["message"]
    assert served.say(session, "three").json()["content"] == "said: three", "a refused message does no harm"


@pytest.mark.parametrize("target", [{"graph": "chat"}, {"guest": "terminal"}])
def test_a_second_turn_decodes_only_its_new_tokens(served: Served, target: dict[str, str]) -> None:
    session = served.open(**target)
    first = served.say(session, QUESTION).json()["usage"]
    second = served.say(session, "And cats?").json()["usage"]
    held = first["prompt_tokens"] + first["completion_tokens"]
    assert second["prompt_tokens"] > held
    assert second["prompt_tokens_details"]["cached_tokens"] >= held - 1
    assert served.http.delete(f"/v1/sessions/{session}").status_code == 204


def test_a_stream_is_pieces_and_then_the_whole_message(served: Served) -> None:
    session = served.open(graph="chat")
    with served.streaming(f"/v1/sessions/{session}/messages", {"content": QUESTION}) as stream:
        events = list(stream)
    assert [event for event, _ in events[:-1]] == ["piece"] * (len(events) - 1)
    event, message = events[-1]
    assert event == "message"
    assert "".join(data["content"] for _, data in events[:-1]) == message["content"]
    assert message["role"] == "assistant"
    assert message["stop_reason"] == "max-tokens"
    assert message["usage"]["completion_tokens"] == 30


def test_a_session_has_one_turn_at_a_time(served: Served) -> None:
    session = served.open(graph="chat")
    with served.streaming(f"/v1/sessions/{session}/messages", {"content": QUESTION}) as stream:
        next(stream)
        second = served.say(session, "Hurry!")
        assert second.status_code == 409
        assert "still answering" in second.json()["error"]["message"]
        assert list(stream)[-1][0] == "message"
    assert served.say(session, "Now?").status_code == 200


def test_sessions_are_listed_until_they_are_closed(served: Served) -> None:
    session = served.open(guest="handler")
    documents.SessionReply.model_validate(served.say(session, "hi").json())
    documents.SessionList.model_validate(served.http.get("/v1/sessions").json())
    (listed,) = [each for each in served.http.get("/v1/sessions").json()["data"] if each["id"] == session]
    assert listed == served.http.get(f"/v1/sessions/{session}").json()
    assert (listed["guest"], listed["graph"], listed["turns"], listed["busy"]) == ("handler", None, 1, False)
    assert served.http.delete(f"/v1/sessions/{session}").status_code == 204
    assert session not in [each["id"] for each in served.http.get("/v1/sessions").json()["data"]]
    assert served.say(session, "hi").status_code == 404
    assert served.http.delete(f"/v1/sessions/{session}").status_code == 404


def test_a_handlers_error_ends_the_turn_and_not_the_session(served: Served) -> None:
    session = served.open(guest="handler")
    refused = served.say(session, "!")
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert served.say(session, "a").json()["content"] == "2/1 a", "the refused message is not part of the conversation"


@pytest.mark.parametrize(("guest", "content"), [("handler", "*"), ("lines", "x")])
def test_a_guest_that_ends_takes_its_session_with_it_and_nothing_else(served: Served, guest: str, content: str) -> None:
    doomed, other = served.open(guest=guest), served.open(guest=guest)
    assert served.say(doomed, content).status_code == 500
    assert served.say(doomed, "still there?").status_code == 404
    assert served.say(other, "still there?").status_code == 200


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(served: Served) -> None:
    session = served.open(guest="handler")
    with served.streaming(f"/v1/sessions/{session}/messages", {"content": "#looping"}) as stream:
        assert next(stream) == ("piece", {"content": "#looping"})
        served.http.delete(f"/v1/sessions/{session}")
        event, data = next(stream)
    assert event == "error"
    assert "stopped" in data["error"]["message"]


def test_a_guest_that_was_granted_nothing_says_so(served: Served) -> None:
    response = served.complete("guest/ungranted", QUESTION)
    assert response.status_code == 500, "the guest exits with an error"
    assert served.complete("guest/handler", "hi").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"guest": "handler", "graph": "echo"}, 400),
        ({"guest": 1}, 400),
        ({"guest": "nobody"}, 404),
        ({"graph": "nothing"}, 404),
        ({"guest": "../handler"}, 404),
    ],
)
def test_a_session_needs_a_guest_or_a_graph_that_exists(served: Served, body: Any, status: int) -> None:
    response = served.http.post("/v1/sessions", json=body)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_more_sessions_than_allowed_are_refused_until_one_is_closed(guest_files: dict[str, Path]) -> None:
    guests = {"handler": GuestSettings(file=guest_files["handler"])}
    settings = Settings(
        graphs={"echo": GraphSettings(model="echo")}, guests=guests, server=ServerSettings(max_sessions=2)
    )
    with serving(settings) as served:
        first, _ = served.open(guest="handler"), served.open(guest="handler")
        for response in (
            served.http.post("/v1/sessions", json={"guest": "handler"}),
            served.http.post("/v1/sessions", json={"graph": "echo"}),
            served.complete("guest/handler", "hi"),
        ):
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert "max-sessions" in response.json()["error"]["message"]
        assert served.complete("echo", "hi").status_code == 200, "a graph needs no place"
        served.http.delete(f"/v1/sessions/{first}")
        wait_until(lambda: served.http.post("/v1/sessions", json={"guest": "handler"}).status_code == 201)


def test_a_session_nobody_talks_to_is_closed(guest_files: dict[str, Path]) -> None:
    guests = {"handler": GuestSettings(file=guest_files["handler"])}
    with serving(Settings(guests=guests, server=ServerSettings(session_idle=0.2))) as served:
        session = served.open(guest="handler")
        wait_until(lambda: served.http.get(f"/v1/sessions/{session}").status_code == 404)
