"""Streams of sessions that break off: a client that comes back in time misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served, serving, wait_until

from promptd.chat import Completion, StopReason, Usage
from promptd.config import GraphSettings, GuestSettings, ServerSettings, Settings
from promptd.errors import InvalidArgument
from promptd.server.errors import Forgotten
from promptd.server.events import EventLog

QUESTION = "Are dogs real?"
WHOLE = Completion("ab", StopReason.END_OF_TURN, Usage(1, 0, 2))

Events = list[tuple[int, str, Any]]


def _read(served: Served, session: str, **how: Any) -> Events:
    """Return what is left of a session's reply as (id, event, data)."""
    return list(_parsed(served.http.get(f"/v1/sessions/{session}/events", **how).text))


def _parsed(text: str) -> Iterator[tuple[int, str, Any]]:
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])


def _break_off(served: Served, session: str, content: str, events: int) -> Events:
    """Send a message and hang up after so many events, which are returned."""
    seen: Events = []
    with served.http.stream("POST", f"/v1/sessions/{session}/messages", json={"content": content}) as response:
        text = ""
        for part in response.iter_text():
            text += part
            seen = list(_parsed(text[: text.rfind("\n\n") + 2]))
            if len(seen) >= events:
                return seen[:events]
    return seen


def test_a_client_that_broke_off_goes_on_with_the_next_event(served: Served) -> None:
    session = served.open(graph="chat")
    seen = _break_off(served, session, QUESTION, 3)
    rest = _read(served, session, headers={"Last-Event-ID": str(seen[-1][0])})
    assert [number for number, _, _ in seen + rest] == list(range(1, len(seen + rest) + 1))
    assert [event for _, event, _ in rest] == ["piece"] * (len(rest) - 1) + ["message"]
    message = rest[-1][2]
    assert "".join(data["content"] for _, event, data in seen + rest if event == "piece") == message["content"]
    assert message["usage"]["completion_tokens"] == 30, "it was not cancelled meanwhile"
    assert _read(served, session) == seen + rest, "without a number: the whole last reply"
    assert served.http.get(f"/v1/sessions/{session}/events?after={rest[-1][0]}").status_code == 204
    assert served.http.get(f"/v1/sessions/{session}").json()["turns"] == 1


def test_two_clients_hear_the_same_reply(served: Served) -> None:
    session = served.open(graph="chat")
    seen = _break_off(served, session, QUESTION, 1)
    assert _read(served, session)[0] == seen[0]
    assert _read(served, session, params={"after": 0}) == _read(served, session)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"params": {"after": 99}}, 400),
        ({"params": {"after": "x"}}, 400),
        ({"params": {"after": -1}}, 400),
        ({"headers": {"Last-Event-ID": "seven"}}, 400),
    ],
)
def test_a_client_cannot_go_on_after_what_never_was(served: Served, how: dict[str, Any], status: int) -> None:
    session = served.open(guest="handler")
    assert served.http.get(f"/v1/sessions/{session}/events", **how).status_code == status
    assert served.http.get(f"/v1/sessions/{session}/events").status_code == 204, "nothing has happened yet"


def test_a_reply_is_cancelled_on_request(served: Served) -> None:
    session = served.open(guest="handler")
    with served.streaming(f"/v1/sessions/{session}/messages", {"content": "#looping"}) as stream:
        assert next(stream)[0] == "piece"
        assert served.http.post(f"/v1/sessions/{session}/cancel").json() == {"cancelled": True}
        assert next(stream)[0] == "error"
    assert served.say(session, "a").json()["content"] == "1/1 a", "a fresh instance with the same past"
    quiet = served.open(guest="handler")
    assert served.http.post(f"/v1/sessions/{quiet}/cancel").json() == {"cancelled": False}


def test_how_a_guest_ended_can_be_read_after_its_session(served: Served) -> None:
    session = served.open(guest="handler")
    assert served.say(session, "*").status_code == 500
    assert served.http.get(f"/v1/sessions/{session}").status_code == 404
    ((number, event, data),) = _read(served, session)
    assert (number, event) == (1, "error")
    assert "trapped" in data["error"]["message"]


def test_a_reply_is_cancelled_when_its_client_does_not_come_back_in_time(guest_files: dict[str, Path]) -> None:
    settings = Settings(
        guests={"handler": GuestSettings(file=guest_files["handler"])}, server=ServerSettings(session_grace=0.2)
    )
    with serving(settings) as served:
        session = served.open(guest="handler")
        _break_off(served, session, "#looping", 1)
        wait_until(lambda: not served.http.get(f"/v1/sessions/{session}").json()["busy"])
        assert [event for _, event, _ in _read(served, session)] == ["piece", "error"]
        assert served.say(session, "a").json()["content"] == "1/1 a"


def test_a_session_ends_when_its_life_is_over_however_busy_it_is(guest_files: dict[str, Path]) -> None:
    settings = Settings(
        guests={"handler": GuestSettings(file=guest_files["handler"])}, server=ServerSettings(session_life=2)
    )
    with serving(settings) as served:
        session = served.open(guest="handler")
        with served.streaming(f"/v1/sessions/{session}/messages", {"content": "#looping"}) as stream:
            assert [event for event, _ in stream] == ["piece", "error"]
        assert served.http.get("/v1/sessions").json()["data"] == []


def test_old_events_are_forgotten_when_all_are_too_large() -> None:
    log = EventLog(limit=600)
    for _ in range(20):
        log.add("a piece of text")
    log.add(WHOLE)
    with pytest.raises(Forgotten, match="has the number 18"):
        log.check(3)
    log.check(17)
    log.check(21)
    with pytest.raises(InvalidArgument, match="no event 22"):
        log.check(22)


def test_events_are_kept_for_those_who_still_have_to_read_them() -> None:
    log = EventLog(limit=600)

    async def read() -> list[int]:
        with log.reader(0) as reader:
            for _ in range(20):
                log.add("a piece of text")
            return [event.number for _ in range(20) if (event := await reader.next())]

    assert asyncio.run(read()) == list(range(1, 21))
    with pytest.raises(Forgotten):
        log.check(3)


def test_what_is_no_longer_kept_is_gone_and_the_whole_reply_is_not() -> None:
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, server=ServerSettings(session_buffer=1))
    with serving(settings) as served:
        session = served.open(graph="echo")
        assert _break_off(served, session, "a", 2)[-1][1] == "message"
        gone = served.http.get(f"/v1/sessions/{session}/events", params={"after": 0})
        assert gone.status_code == 410
        assert "number 2" in gone.json()["error"]["message"]
        ((number, event, data),) = _read(served, session, params={"after": 1})
        assert (number, event, data["content"]) == (2, "message", "a")
