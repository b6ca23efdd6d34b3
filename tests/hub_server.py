"""A local Hugging Face hub that misbehaves on demand: what the real client meets in tests.

It speaks the part of the hub's protocol a download uses: HEAD and GET of `/USER/REPO/resolve/REVISION/FILE` with ETag,
X-Linked-Etag, X-Linked-Size and X-Repo-Commit headers and a redirect to a CDN, which is another origin (a second port)
and serves ranges; and `/api/models/USER/REPO/revision/REVISION`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, unique
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@unique
class Fault(Enum):
    """What the server does wrong; HEAD_ and API_ concern those requests, the others the transfer of the file."""

    TRUNCATE = "closes the connection in the middle, having said how long the file is"
    SHORT = "closes the connection in the middle, having said nothing"
    WRONG_BYTES = "sends other bytes of the right size"
    TOO_MANY = "sends more bytes than the file has"
    IGNORE_RANGE = "sends the whole file with 200 where a range was asked for"
    WRONG_RANGE = "sends another range than was asked for, with 206"
    RANGE_404 = "has lost the file by the time it is fetched"
    GET_403 = "lets the signed address expire"
    GET_429 = "limits the rate, for an hour"
    GET_503 = "is overloaded when the file is fetched"
    STALL = "stops in the middle and keeps the connection open"
    GET_LOOP = "redirects the transfer in a circle"
    HEAD_LOOP = "redirects the question in a circle"
    HEAD_401 = "wants another token"
    HEAD_403_GATED = "wants its terms accepted"
    HEAD_404 = "does not have the file"
    HEAD_404_REVISION = "does not have the revision"
    HEAD_429 = "limits the rate"
    HEAD_503 = "is overloaded when asked"
    HEAD_STALL = "does not answer"
    COMMIT_PATH = "says the commit is ../../../x"
    ETAG_PATH = "says the digest is ../../../x"
    ETAG_65 = "says the digest is one of 65 digits"
    ETAG_GIT = "says the digest is a git hash, as for files outside LFS"
    NO_COMMIT = "says no commit, like any web server"
    NO_SIZE = "says no size"
    HUGE = "says the file has a petabyte"
    API_PATHS = "lists files called ../../x.gguf"
    API_503 = "is overloaded when asked for a list"
    API_NOT_JSON = "answers with a page"


@dataclass(frozen=True)
class Seen:
    """A request the server got; `cdn` when it was for the other origin."""

    method: str
    path: str
    cdn: bool
    authorization: str | None
    range: str | None


@dataclass
class Served:
    """A file of a repository."""

    data: bytes
    commit: str = COMMIT
    xet: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class HubServer:
    """Repositories, the requests seen, and the fault that the next `times` requests it concerns meet."""

    files: dict[tuple[str, str], Served] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    fault: Fault | None = None
    times: int = 1 << 30
    endpoint: str = ""
    cdn: str = ""
    token: str | None = None
    """Where set, questions without it are refused."""
    hold: threading.Event = field(default_factory=threading.Event)
    """Stalled requests end when it is set."""

    def add(self, repo: str, file: str, data: bytes, *, commit: str = COMMIT, xet: bool = False) -> Served:
        served = self.files[repo, file] = Served(data, commit, xet)
        return served

    def misbehave(self, fault: Fault, times: int = 1 << 30) -> None:
        self.fault, self.times = fault, times

    def behave(self) -> None:
        self.fault = None

    def meets(self, *faults: Fault) -> Fault | None:
        """Return the active fault if it is one of `faults`, counting it."""
        if self.fault in faults and self.times > 0:
            self.times -= 1
            return self.fault
        return None

    @contextlib.contextmanager
    def running(self) -> Iterator[HubServer]:
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, cdn)) for cdn in (False, True)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
        for server in servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield self
        finally:
            self.hold.set()
            for server in servers:
                server.shutdown()
                server.server_close()


def _handler(hub: HubServer, cdn: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle()

        def do_HEAD(self) -> None:
            self._respond()

        def do_GET(self) -> None:
            self._respond()

        def _respond(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.seen.append(Seen(self.command, path, cdn, self.headers["authorization"], self.headers["range"]))
            if hub.token and not cdn and self.headers["authorization"] != f"Bearer {hub.token}":
                return self._answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            if cdn or path.startswith("/cdn/"):
                return self._transfer(path)
            if path.startswith("/api/models/"):
                return self._list(path.removeprefix("/api/models/"))
            if path == "/loop":
                return self._answer(307, {"Location": "/loop"})
            return self._describe(path)

        def _describe(self, path: str) -> None:
            """Answer HEAD, or GET, of a resolve address: what the file is, and where."""
            repo, _, rest = path.lstrip("/").partition("/resolve/")
            file = rest.partition("/")[2]
            served = hub.files.get((repo, file))
            if hub.meets(Fault.HEAD_LOOP):
                return self._answer(307, {"Location": "/loop"})
            if hub.meets(Fault.HEAD_STALL):
                hub.hold.wait(30)
            for fault, status, code in (
                (Fault.HEAD_401, 401, "RepoNotFound"),
                (Fault.HEAD_403_GATED, 403, "GatedRepo"),
                (Fault.HEAD_404_REVISION, 404, "RevisionNotFound"),
                (Fault.HEAD_429, 429, None),
                (Fault.HEAD_503, 503, None),
            ):
                if hub.meets(fault):
                    return self._answer(status, {"X-Error-Code": code} if code else {})
            if served is None or hub.meets(Fault.HEAD_404):
                return self._answer(404, {"X-Error-Code": "EntryNotFound" if served else "RepoNotFound"})
            headers = {
                "X-Repo-Commit": served.commit,
                "X-Linked-Etag": f'"{served.digest}"',
                "X-Linked-Size": str(len(served.data)),
                "ETag": f'"{hashlib.md5(served.data).hexdigest()}"',
                "Location": f"{hub.cdn}/cdn/{served.digest}",
            }
            if served.xet:
                headers |= {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": "/api/xet"}
            match hub.meets(
                Fault.COMMIT_PATH,
                Fault.ETAG_PATH,
                Fault.ETAG_65,
                Fault.ETAG_GIT,
                Fault.NO_COMMIT,
                Fault.NO_SIZE,
                Fault.HUGE,
            ):
                case Fault.COMMIT_PATH:
                    headers["X-Repo-Commit"] = "../../../x"
                case Fault.ETAG_PATH:
                    headers["X-Linked-Etag"] = '"../../../x"'
                case Fault.ETAG_65:
                    headers["X-Linked-Etag"] = f'"{served.digest}0"'
                case Fault.ETAG_GIT:
                    headers["X-Linked-Etag"] = '"0123456789abcdef0123456789abcdef01234567"'
                case Fault.NO_COMMIT:
                    del headers["X-Repo-Commit"]
                case Fault.NO_SIZE:
                    del headers["X-Linked-Size"]
                case Fault.HUGE:
                    headers["X-Linked-Size"] = str(10**15)
            return self._answer(302, headers)

        def _list(self, path: str) -> None:
            repo = path.partition("/revision/")[0]
            names = [file for owner, file in hub.files if owner == repo]
            if not names:
                return self._answer(404, {"X-Error-Code": "RepoNotFound"})
            commit = next(served.commit for (owner, _), served in hub.files.items() if owner == repo)
            if hub.meets(Fault.API_503):
                return self._answer(503)
            if hub.meets(Fault.API_NOT_JSON):
                return self._answer(200, {}, b"<html>Welcome to the airport</html>")
            if hub.meets(Fault.API_PATHS):
                names = ["../../x.Q4_K_M.gguf", "/etc/x.gguf", "C:\\x.gguf"]
            about = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            return self._answer(200, {"Content-Type": "application/json"}, json.dumps(about).encode())

        def _transfer(self, path: str) -> None:
            """Send a file, or the range that was asked for."""
            data = next(
                (served.data for served in hub.files.values() if served.digest == path.rpartition("/")[2]), None
            )
            if path == "/cdn/loop" or hub.meets(Fault.GET_LOOP):
                return self._answer(302, {"Location": "/cdn/loop"})
            if data is None or hub.meets(Fault.RANGE_404):
                return self._answer(404)
            for fault, status in ((Fault.GET_403, 403), (Fault.GET_429, 429), (Fault.GET_503, 503)):
                if hub.meets(fault):
                    return self._answer(status, {"Retry-After": "3600"} if status == 429 else {})
            start = 0
            headers = {"Accept-Ranges": "bytes"}
            if (asked := self.headers["range"]) and not hub.meets(Fault.IGNORE_RANGE):
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            body = data[start:]
            if hub.meets(Fault.WRONG_RANGE) and start:
                body = data[: len(body)]
            if hub.meets(Fault.WRONG_BYTES):
                body = bytes(byte ^ 0xFF for byte in body)
            status = 206 if "Content-Range" in headers else 200
            if hub.meets(Fault.SHORT):
                return self._send(status, {**headers, "Connection": "close"}, body[: len(body) // 2])
            if hub.meets(Fault.TOO_MANY):
                return self._send(status, {**headers, "Connection": "close"}, body + bytes(1 << 20))
            headers["Content-Length"] = str(len(body))
            part = b"" if start else body[: len(body) // 2]
            if hub.meets(Fault.TRUNCATE):
                return self._send(status, {**headers, "Connection": "close"}, part)
            if hub.meets(Fault.STALL):
                self._send(status, headers, part)
                hub.hold.wait(30)
                self.close_connection = True
                return None
            return self._send(status, headers, body)

        def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
            self._send(status, {**(headers or {}), "Content-Length": str(len(body))}, body)

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)
                    self.wfile.flush()
            self.close_connection = self.close_connection or headers.get("Connection") == "close"

    return Handler
