"""Abuse of the daemon's doors with bare sockets: abusers get a polite answer or are hung up on, and others theirs."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from serving import PATIENCE_S, Served, serving, wait_until

from promptd.config import GraphSettings, GuestSettings, KeySettings, ServerSettings, Settings
from promptd.server.keys import key_hash

CROWD = 10_000
CROWDS = 2
"""Processes of clients: the daemon's ends are files of this one."""
SPARE_FILES = 1000
ROOM = 40
KEY = KeySettings(name="me", sha256=key_hash("pd-secret"))


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    """Return a daemon with room for few connections."""
    server = ServerSettings(max_connections=ROOM)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("daemon", "connections"):
            patch.setattr(f"promptd.server.{module}.KEEP_ALIVE_S", 10 * PATIENCE_S)  # a crowd takes its time
        patch.setattr("promptd.server.connections.REFUSED_S", PATIENCE_S)
        with serving(Settings(graphs={"echo": GraphSettings(model="echo")}, server=server)) as running:
            yield running


@pytest.fixture(scope="module")
def locked(guest_files: dict[str, object]) -> Iterator[Served]:
    """Return a daemon that asks for a key."""
    guests = {"handler": GuestSettings(file=str(guest_files["handler"]))}
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, guests=guests, server=ServerSettings(keys=(KEY,)))
    with serving(settings) as running:
        yield running


@contextlib.contextmanager
def _connected(served: Served) -> Iterator[socket.socket]:
    address = str(served.http.base_url.host), served.http.base_url.port or 0
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        yield connection


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """Return status and all that comes until the daemon hangs up."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            got += data
    return (int(got.split(b" ", 2)[1]) if got else 0), got


def _request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _is_served(served: Served) -> bool:
    with _connected(served) as connection:
        connection.sendall(_request("GET", "/healthz"))
        return _answer(connection)[0] == 200


def test_a_crowd_of_connections_is_refused_politely_and_those_there_is_room_for_are_served(small: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CROWD + SPARE_FILES:
        pytest.skip(f"this machine allows a process {hard} files, too few for {CROWD} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (CROWD + SPARE_FILES, hard))
    small.http.close()
    try:
        with contextlib.ExitStack() as stack:
            inside = [stack.enter_context(_connected(small)) for _ in range(ROOM)]
            for each in inside:
                _ask(each)
            crowds = [stack.enter_context(_crowd(small, CROWD // CROWDS)) for _ in range(CROWDS)]
            for crowd in crowds:
                assert crowd.stdout and crowd.stdout.readline() == "connected\n"
            for each in inside:
                _ask(each)
            answers: Counter[str] = Counter()
            for crowd in crowds:
                assert crowd.stdin
                crowd.stdin.write("go on\n")
                crowd.stdin.flush()
            for crowd in crowds:
                assert crowd.stdout
                answers.update(json.loads(crowd.stdout.readline()))
            ((refused, count),) = answers.items()
            assert count == CROWD, "every one of them was told the same"
            head, _, body = refused.partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 503 ")
            assert "retry-after: 1" in head.lower() and "connection: close" in head.lower()
            assert "max-connections" in json.loads(body)["error"]["message"]
            for each in inside:
                _ask(each)
        wait_until(lambda: _is_served(small))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _ask(connection: socket.socket) -> None:
    """Be served on a connection that stays."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    got = b""
    while b'"ok"}' not in got:
        data = connection.recv(65536)
        assert data, got
        got += data


@contextlib.contextmanager
def _crowd(served: Served, count: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process of `count` clients, which ends with the block."""
    address = [str(served.http.base_url.host), str(served.http.base_url.port or 0)]
    command = [sys.executable, Path(__file__).parent / "crowd.py", *address, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_body_that_is_on_its_way_does_not_hide_the_refusal(small: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(ROOM):
            _ask(stack.enter_context(_connected(small)))
        refused = stack.enter_context(_connected(small))
        with contextlib.suppress(BrokenPipeError):
            for part in (_request("POST", "/v1/chat/completions", "Content-Length: 1000000"), *[b" " * 1000] * 1000):
                refused.sendall(part)
        assert _answer(refused)[0] == 503
    wait_until(lambda: _is_served(small))


def test_a_connection_there_is_no_room_for_is_hung_up_on_though_it_asks_nothing(
    small: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptd.server.connections.REFUSED_S", 0.1)
    with contextlib.ExitStack() as stack:
        for _ in range(ROOM):
            stack.enter_context(_connected(small)).sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        with _connected(small) as silent:
            assert _answer(silent) == (0, b"")
    wait_until(lambda: _is_served(small))


def test_a_body_that_drips_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptd.server.doors.BODY_S", 0.2)
    with _connected(served) as connection:
        head = ("Content-Type: application/json", "Content-Length: 100")
        connection.sendall(_request("POST", "/v1/chat/completions", *head, body=b'{"mod'))
        status, text = _answer(connection)
    assert (status, b"did not go on" in text) == (408, True)


@pytest.mark.parametrize("framing", ["Content-Length: 104857600", "Transfer-Encoding: chunked"])
def test_a_hundred_megabytes_are_refused_before_they_are_read(served: Served, framing: str) -> None:
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n" if "chunked" in framing else b" " * 2**20
    sent = 0
    with _connected(served) as connection:
        connection.sendall(_request("POST", "/v1/chat/completions", "Content-Type: application/json", framing))
        with contextlib.suppress(ConnectionError):
            while sent < 100 and not select.select([connection], [], [], 0)[0]:
                connection.sendall(chunk)
                sent += 1
        status, _ = _answer(connection)
    assert status in (413, 0)  # 0: what was still on the way made the kernel drop the answer
    assert sent < 60
    assert _is_served(served)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
        b"GET " + b"/" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"\r\n" * 10 + b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(served: Served, sent: bytes) -> None:
    with _connected(served) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        status, _ = _answer(connection)
    assert status in (0, 400, 403, 404, 431)
    assert _is_served(served)


TRICKS = [
    "..",
    "../app.py",
    "..%2fapp.py",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "a/../b",
    "a\\..\\b",
    "%00",
    "nul%00.js",
]


@pytest.mark.parametrize("trick", [*TRICKS, "x" * 5000, "guest%2f..%2f..", "é", "%ff", "{name}", "*", ";ls"])
def test_path_tricks_in_names_find_nothing(served: Served, trick: str) -> None:
    name = quote(trick, safe="%/.")
    routes = [
        ("GET", f"/page/{name}"), ("GET", f"/v1/models/{name}"), ("GET", f"/v1/sessions/{name}"),
        ("DELETE", f"/v1/engine/{name}"), ("DELETE", f"/v1/guests/{name}"), ("DELETE", f"/v1/sessions/{name}"),
    ]  # fmt: skip
    for method, path in routes:
        with _connected(served) as connection:  # a client library would tidy the path up
            connection.sendall(_request(method, path))
            status, text = _answer(connection)
        assert status in (400, 403, 404, 405), (method, path, text)
        assert b"root:" not in text
    for model in (trick, f"guest/{trick}"):
        assert served.complete(model, "hi").status_code in (400, 404)
        assert served.http.post("/api/show", json={"model": model}).status_code in (400, 404)
    for kind in ("guest", "graph"):
        assert served.http.post("/v1/sessions", json={kind: trick}).status_code in (400, 404)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "echo", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "ec\xc3ho"}',
        b'\xef\xbb\xbf{"model": "echo"}',
        '{"model": "echo"}'.encode("utf-16"),
        b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "echo", "messages": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"a":' * 1_000_000,
        b'{"model": "echo", "n": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/sessions", "/api/chat", "/v1/embeddings", "/v1/responses"]
)
def test_bytes_that_are_no_text_and_json_that_is_no_request_are_never_the_daemons_fault(
    served: Served, path: str, body: bytes
) -> None:
    response = served.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code < 500, response.text


@pytest.mark.parametrize(
    "header",
    ["", "Authorization: Bearer", "Authorization: Bearer pd-wrong", "Authorization: Basic cGQtc2VjcmV0",
     "X-Api-Key: pd-secre", "X-Api-Key: pd-secret0", "X-Api-Key: " + "x" * 20_000, "Authorization: Bearer pd-sécret"],
)  # fmt: skip
def test_wrong_and_missing_keys_open_no_door(locked: Served, header: str) -> None:
    for method, path in (
        ("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/v1/engine"),
        ("POST", "/api/chat"), ("POST", "/v1/sessions"), ("POST", "/v1/reload"), ("GET", "/openapi.json"),
        ("GET", "/nothing"),
    ):  # fmt: skip
        with _connected(locked) as connection:
            connection.sendall(_request(method, path, *([header] if header else []), "Content-Length: 0"))
            status, text = _answer(connection)
        assert status == 401, (path, text)
        assert b"echo" not in text


def test_a_foreign_host_is_refused_before_its_key_is_looked_at(locked: Served) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "evil.example:8040"):
        response = locked.http.get("/v1/models", headers={"Host": host, "X-Api-Key": "pd-secret"})
        assert response.status_code == 403


def test_clients_that_leave_at_any_byte_of_a_request_leave_nothing_behind(served: Served) -> None:
    chance = random.Random(5)
    body = json.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    whole = _request(
        "POST", "/v1/chat/completions", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body
    )
    for _ in range(60):
        with _connected(served) as connection:
            connection.sendall(whole[: chance.randrange(len(whole) + 1)])
            if chance.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    wait_until(lambda: (served.stats().running, served.stats().queue, served.stats().sequences) == (0, 0, 0))
    assert _is_served(served)
