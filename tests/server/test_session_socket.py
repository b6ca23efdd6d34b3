"""Sessions over WebSockets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE_S, Served, serving, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from promptd.config import GraphSettings, GuestSettings, KeySettings, ServerSettings, Settings
from promptd.server.keys import key_hash

QUESTION = "Are dogs real?"


@contextmanager
def _socket(served: Served, session: str, query: str = "", **how: Any) -> Iterator[ClientConnection]:
    url = f"{served.url.replace('http', 'ws')}/v1/sessions/{session}/ws{query}"
    with connect(url, proxy=None, open_timeout=PATIENCE_S, **how) as socket:
        yield socket


def _say(socket: ClientConnection, content: str) -> None:
    socket.send(json.dumps({"type": "message", "content": content}))


def _next(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(timeout=PATIENCE_S))


def _reply(socket: ClientConnection) -> list[Any]:
    events = [_next(socket)]
    while events[-1]["type"] == "piece":
        events.append(_next(socket))
    return events


def _refusal(served: Served, session: str, query: str = "", **how: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused, _socket(served, session, query, **how):
        pass
    return refused.value


def test_a_reply_comes_in_numbered_pieces_and_then_whole(served: Served) -> None:
    session = served.open(graph="chat")
    with _socket(served, session) as socket:
        _say(socket, QUESTION)
        first = _reply(socket)
        _say(socket, "And cats?")
        second = _reply(socket)
    assert [event["id"] for event in first + second] == list(range(1, len(first + second) + 1))
    for *pieces, message in (first, second):
        assert "".join(piece["content"] for piece in pieces) == message["content"]
        assert (message["type"], message["role"]) == ("message", "assistant")
    assert second[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_client_that_broke_off_goes_on_after_the_last_event_it_has_seen(served: Served) -> None:
    session = served.open(graph="chat")
    with _socket(served, session) as socket:
        _say(socket, QUESTION)
        seen = [_next(socket), _next(socket)]
    with _socket(served, session, f"?after={seen[-1]['id']}") as socket:
        rest = _reply(socket)
    assert [event["id"] for event in seen + rest] == list(range(1, len(seen + rest) + 1))
    assert "".join(event["content"] for event in seen + rest[:-1]) == rest[-1]["content"]


def test_a_message_meanwhile_is_refused_and_a_reply_is_cancelled(served: Served) -> None:
    session = served.open(guest="handler")
    with _socket(served, session) as socket:
        _say(socket, "#looping")
        assert _next(socket)["type"] == "piece"
        _say(socket, "hurry")
        refused = _next(socket)
        assert refused["type"] == "error" and "id" not in refused
        assert "still answering" in refused["error"]["message"]
        socket.send('{"type": "cancel"}')
        assert "stopped" in _next(socket)["error"]["message"]
        _say(socket, "a")
        assert _reply(socket)[-1]["content"] == "1/1 a"
        _say(socket, "*trap")
        assert "trapped" in _next(socket)["error"]["message"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd and closed.value.rcvd.code == 4404


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "{}",
        '{"type": "message"}',
        '{"type": "message", "content": 7}',
        '{"type": "message", "content": "\\ud800"}',
        '{"type": "shout"}',
        '{"type": ' + "[" * 200 + "]" * 200 + "}",
    ],
)
def test_what_is_no_message_is_answered_with_a_sentence_and_does_no_harm(served: Served, text: str) -> None:
    with _socket(served, served.open(guest="lines")) as socket:
        socket.send(text)
        refused = _next(socket)
        assert refused["type"] == "error"
        assert refused["error"]["message"]
        _say(socket, "still here")
        assert _reply(socket)[-1]["content"] == "said: still here"


def test_bytes_and_messages_that_are_too_large_end_the_connection_and_not_the_session(
    guest_files: dict[str, Path],
) -> None:
    settings = Settings(
        guests={"handler": GuestSettings(file=guest_files["handler"])}, server=ServerSettings(max_body=1000)
    )
    with serving(settings) as served:
        session = served.open(guest="handler")
        for sent, code in ((b"bytes", 1003), ("x" * 2000, 1009)):
            with _socket(served, session) as socket:
                socket.send(sent)
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv(timeout=PATIENCE_S)
            assert closed.value.rcvd and closed.value.rcvd.code == code
        assert served.say(session, "a").json()["content"] == "1/1 a"


def test_a_session_that_is_closed_closes_its_connections(served: Served) -> None:
    session = served.open(guest="handler")
    with _socket(served, session) as socket, _socket(served, session) as other:
        served.http.delete(f"/v1/sessions/{session}")
        for each in (socket, other):
            with pytest.raises(ConnectionClosed) as closed:
                each.recv(timeout=PATIENCE_S)
            assert closed.value.rcvd and closed.value.rcvd.code == 4404


def test_a_client_that_leaves_stops_its_guest(guest_files: dict[str, Path]) -> None:
    settings = Settings(
        guests={"handler": GuestSettings(file=guest_files["handler"])}, server=ServerSettings(session_grace=0)
    )
    with serving(settings) as served:
        session = served.open(guest="handler")
        with _socket(served, session) as socket:
            _say(socket, "#looping")
            _next(socket)
        wait_until(lambda: not served.http.get(f"/v1/sessions/{session}").json()["busy"])
        assert served.http.get(f"/v1/sessions/{session}").json()["turns"] == 0


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?after=99", {}, 400),
        ("?after=-1", {}, 400),
        ("?after=x", {}, 400),
        ("", {"Origin": "https://evil.example"}, 403),
        ("", {"Origin": "null"}, 403),
    ],
)
def test_a_connection_is_refused_with_the_status_http_has(
    served: Served, query: str, headers: dict[str, str], status: int
) -> None:
    session = served.open(guest="handler")
    refused = _refusal(served, session, query, additional_headers=headers)
    assert refused.response.status_code == status
    assert json.loads(refused.response.body or b"")["error"]["message"]


def test_a_page_of_the_daemons_own_origin_may_connect(served: Served) -> None:
    session = served.open(guest="handler")
    with _socket(served, session, origin=served.url) as socket:
        _say(socket, "a")
        assert _reply(socket)[-1]["content"] == "1/1 a"
    assert _refusal(served, "nothing").response.status_code == 404


def test_keys_and_hosts_are_asked_for_as_on_every_door(guest_files: dict[str, Path]) -> None:
    keys = tuple(
        KeySettings(name=name, sha256=key_hash(name), requests_per_minute=limit)
        for name, limit in (("alice", 3), ("bob", None))
    )
    settings = Settings(
        graphs={"echo": GraphSettings(model="echo")},
        server=ServerSettings(keys=keys, origins=("https://chat.example",)),
    )
    with serving(settings) as served:
        alice = {"X-Api-Key": "alice"}
        session = served.http.post("/v1/sessions", json={"graph": "echo"}, headers=alice).json()["id"]
        assert _refusal(served, session).response.status_code == 401
        assert _refusal(served, session, additional_headers={"X-Api-Key": "bob"}).response.status_code == 404
        port = served.url.rpartition(":")[2]
        rebound = f"ws://evil.example:{port}/v1/sessions/{session}/ws"
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(rebound, proxy=None, address=("127.0.0.1", int(port)), additional_headers=alice),
        ):
            pass
        assert refused.value.response.status_code == 403
        with _socket(served, session, additional_headers=alice, origin="https://chat.example") as socket:
            for _ in range(2):
                _say(socket, "a")
                assert _reply(socket)[-1]["content"] == "a"
            _say(socket, "one request opened the session, and two were messages")
            assert _next(socket)["error"]["code"] == "rate_limit_exceeded"


def test_a_browser_sends_its_key_as_a_subprotocol(caplog: pytest.LogCaptureFixture) -> None:
    secret, other = "pd-alice_s-key", "pd-bob"
    keys = (KeySettings(name="alice", sha256=key_hash(secret)), KeySettings(name="bob", sha256=key_hash(other)))
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, server=ServerSettings(keys=keys))
    caplog.set_level(logging.DEBUG, "promptd")
    with serving(settings) as served:
        headers = {"X-Api-Key": secret}
        session = served.http.post("/v1/sessions", json={"graph": "echo"}, headers=headers).json()["id"]

        def offer(*protocols: str) -> Any:
            return {"subprotocols": [Subprotocol(protocol) for protocol in protocols]}

        with _socket(served, session, **offer("promptd", f"promptd.key.{secret}")) as socket:
            assert socket.subprotocol == "promptd", "which the key is never echoed as"
            _say(socket, "a")
            assert _reply(socket)[-1]["content"] == "a"
        for protocols, status in (
            (("promptd",), 401),
            (("promptd", "promptd.key.wrong"), 401),
            (("promptd", "promptd.key."), 401),
            ((f"promptd.key.{other}", "promptd"), 404),
        ):
            assert _refusal(served, session, **offer(*protocols)).response.status_code == status
    assert "/v1/sessions/{session_id}/ws" in caplog.text and secret not in caplog.text


def test_connections_are_counted_by_how_they_were_answered(served: Served) -> None:
    def counted(status: int) -> float:
        labels = f'method="GET",route="/v1/sessions/{{session_id}}/ws",status="{status}"'
        lines = served.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"promptd_requests_total{{{labels}}}"))

    before = [counted(status) for status in (101, 404)]
    with _socket(served, served.open(graph="echo")):
        assert counted(101) == before[0] + 1, "while it is open"
    assert _refusal(served, "nothing").response.status_code == 404
    assert [counted(status) for status in (101, 404)] == [before[0] + 1, before[1] + 1]


def test_more_connections_than_allowed_are_refused_politely_until_one_is_closed() -> None:
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, server=ServerSettings(max_connections=2))
    with serving(settings) as served:
        session = served.open(graph="echo")
        with _socket(served, session):  # beside the connection that opened the session
            refused = _refusal(served, session).response
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        wait_until(lambda: _connects(served, session))


def _connects(served: Served, session: str) -> bool:
    try:
        with _socket(served, session) as socket:
            _say(socket, "a")
            return bool(_reply(socket)[-1]["content"] == "a")
    except InvalidStatus:
        return False


def test_a_daemon_that_goes_down_lets_a_short_reply_end(smollm2: Path) -> None:
    chat = GraphSettings(model=f"file:{smollm2}", max_tokens=20)
    with ExitStack() as connections:
        with serving(Settings(graphs={"chat": chat})) as served:
            socket = connections.enter_context(_socket(served, served.open(graph="chat")))
            _say(socket, QUESTION)
            _next(socket)
        assert _reply(socket)[-1]["type"] == "message"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd and closed.value.rcvd.code == 1012
