"""/v1/guests: guests that are uploaded, and what is no guest."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import Served, serving, wait_until
from wasmtime import wat2wasm
from wat_guests import HANDLER, LINES

from promptd.config import GuestSettings, KeySettings, ServerSettings, Settings, UploadSettings
from promptd.errors import TooLarge
from promptd.server import documents, doors
from promptd.server.keys import key_hash
from promptd.wasm.trial import LINKER_FAILED, _failure

MAX_SIZE = 100_000


def _number(number: int) -> bytes:
    """Return LEB128."""
    low = number & 0x7F
    return bytes([low]) if number < 0x80 else bytes([low | 0x80]) + _number(number >> 7)


def _section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _number(len(body)) + body


def _bomb(variables: int, loops: int) -> bytes:
    """Return a module of some kilobytes whose compilation does not end: loops in one another, and many variables."""
    body = _number(1) + _number(variables) + b"\x7e" + b"\x03\x40" * loops
    for loop in range(loops):
        first, second, third = (_number(loop * step % variables) for step in (7, 13, 29))
        body += b"\x20" + first + b"\x20" + second + b"\x7e\x21" + third + b"\x20" + third + b"\xa7\x0d\x00\x0b"
    body += b"\x0b"
    function = b"\x01" + _number(len(body)) + body
    return (
        b"\0asm\1\0\0\0"
        + _section(1, b"\x01\x60\0\0")
        + _section(3, b"\x01\x00")
        + _section(7, b"\x01\x06_start\x00\x00")
        + _section(10, function)
    )


BOMB = _bomb(5000, 1000)
GUEST = bytes(wat2wasm(HANDLER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "guests"


@pytest.fixture(scope="module")
def settings(folder: Path, guest_files: dict[str, Path]) -> Settings:
    return Settings(
        guests={"configured": GuestSettings(file=guest_files["handler"])},
        uploads=UploadSettings(folder=folder, max_size=MAX_SIZE, compile_time=2, max_guests=1),
    )


@pytest.fixture(scope="module")
def open_to_uploads(settings: Settings) -> Iterator[Served]:
    with serving(settings) as served:
        yield served


def _upload(served: Served, name: str, content: Any, **headers: str) -> httpx2.Response:
    headers = {"Content-Type": "application/wasm", **headers}
    return served.http.post("/v1/guests", params={"name": name}, content=content, headers=headers)


def _names(served: Served) -> list[str]:
    return [each["name"] for each in served.http.get("/v1/guests").json()["data"]]


@pytest.mark.parametrize(
    ("text", "format", "kinds"), [(HANDLER, "component", ["handler"]), (LINES, "core", ["command"])]
)
def test_an_uploaded_guest_answers_until_it_is_deleted_and_its_sessions_go_on(
    open_to_uploads: Served, folder: Path, text: str, format: str, kinds: list[str]
) -> None:
    uploaded = _upload(open_to_uploads, "mine", bytes(wat2wasm(text)))
    assert uploaded.status_code == 201, uploaded.text
    about = uploaded.json()
    assert (about["uploaded"], about["format"], about["kinds"]) == (True, format, kinds)
    listed = open_to_uploads.http.get("/v1/guests").json()
    documents.GuestList.model_validate(listed)
    assert about in listed["data"]
    assert open_to_uploads.complete("guest/mine", "hi").status_code == 200
    assert "guest/mine" in [each["id"] for each in open_to_uploads.http.get("/v1/models").json()["data"]]

    again = _upload(open_to_uploads, "mine", GUEST)
    assert again.status_code == 409 and "already" in again.json()["error"]["message"]
    session = open_to_uploads.open(guest="mine")
    assert open_to_uploads.http.delete("/v1/guests/mine").status_code == 204
    assert open_to_uploads.say(session, "a").status_code == 200
    assert open_to_uploads.http.post("/v1/sessions", json={"guest": "mine"}).status_code == 404
    assert open_to_uploads.http.delete("/v1/guests/mine").status_code == 404
    assert list(folder.iterdir()) == []


def test_an_uploaded_guest_is_there_after_a_restart(settings: Settings, folder: Path) -> None:
    with serving(settings) as first:
        assert _upload(first, "kept", GUEST).status_code == 201
    (folder / ".upload-torn").write_bytes(b"half")
    os.utime(folder / ".upload-torn", (0, 0))
    with serving(settings) as second:
        assert _names(second) == ["configured", "kept"]
        assert second.complete("guest/kept", "hi").json()["choices"][0]["message"]["content"] == "1/1 hi"
        second.http.delete("/v1/guests/kept")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 400, "cut off|empty"),
        (b"\0as", 400, "cut off|not WebAssembly"),
        (b"GGUF" + bytes(100), 400, "no WebAssembly binary"),
        (b"(module)", 400, "no WebAssembly binary"),
        (GUEST[:-10], 400, "cut off|not valid"),
        (GUEST[:100] + bytes(100), 400, "not valid"),
        (b"\0asm\x07\0\0\0", 400, "unknown version"),
        (bytes(wat2wasm("(module)")), 400, "nothing to run"),
        (bytes(wat2wasm('(module (import "env" "system" (func)))')), 400, "does not offer"),
        (b"\0asm\1\0\0\0" + bytes(MAX_SIZE), 413, "larger than"),
    ],
    ids=["empty", "three bytes", "model", "text", "cut off", "damaged", "version", "library", "imports", "too large"],
)
def test_what_is_no_guest_is_refused_and_leaves_nothing(
    open_to_uploads: Served, folder: Path, content: bytes, status: int, sentence: str
) -> None:
    refused = _upload(open_to_uploads, "bad", content)
    assert refused.status_code == status, refused.text
    message = refused.json()["error"]["message"]
    assert any(part in message for part in sentence.split("|")), message
    assert str(folder) not in message
    assert _names(open_to_uploads) == ["configured"]
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_body_without_a_length_is_cut_off_at_the_limit(open_to_uploads: Served, folder: Path) -> None:
    refused = _upload(open_to_uploads, "endless", iter([b"\0asm\1\0\0\0", *[bytes(10_000)] * 20]))
    assert refused.status_code == 413
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "..", "../evil", "a/b", "a\\b", ".hidden", "a\n", "a\0b", "x" * 81, "ä", "%2e%2e%2fevil"]
)
def test_names_that_could_be_paths_are_refused(open_to_uploads: Served, name: str) -> None:
    refused = _upload(open_to_uploads, name, GUEST)
    assert refused.status_code == 400
    assert "name" in refused.json()["error"]["message"]


def test_a_guest_of_the_settings_is_neither_replaced_nor_deleted(open_to_uploads: Served) -> None:
    assert _upload(open_to_uploads, "configured", GUEST).status_code == 409
    assert open_to_uploads.http.delete("/v1/guests/configured").status_code == 403
    assert open_to_uploads.http.delete("/v1/guests/..%2f..%2fetc").status_code == 404


def test_a_plain_request_of_a_web_page_uploads_nothing(open_to_uploads: Served) -> None:
    for kind in ("text/plain", "multipart/form-data", ""):
        assert _upload(open_to_uploads, "page", GUEST, **{"Content-Type": kind}).status_code == 400
    assert _names(open_to_uploads) == ["configured"]


def test_a_guest_that_never_finishes_compiling_is_refused(open_to_uploads: Served, folder: Path) -> None:
    refused = _upload(open_to_uploads, "bomb", BOMB)
    assert refused.status_code == 413
    assert "longer than 2 s to compile" in refused.json()["error"]["message"]
    assert list(folder.iterdir()) == []


def test_a_guest_whose_compiler_is_killed_or_eats_memory_is_refused(tmp_path: Path) -> None:
    limits = UploadSettings(folder=tmp_path / "guests", compile_time=600, compile_memory=2 * 1024**2)
    with serving(Settings(uploads=limits)) as served:
        eaten = _upload(served, "bomb", BOMB)
    assert eaten.status_code == 413, eaten.text
    assert "2 MiB" in eaten.json()["error"]["message"]

    limits = UploadSettings(folder=tmp_path / "guests", compile_time=600)
    with serving(Settings(uploads=limits)) as served:
        outcome: list[httpx2.Response] = []
        upload = threading.Thread(target=lambda: outcome.append(_upload(served, "bomb", BOMB)))
        upload.start()
        wait_until(lambda: _compilers() != [])
        for compiler in _compilers():
            os.kill(compiler, signal.SIGKILL)
        upload.join()
        assert outcome[0].status_code == 413
        assert "SIGKILL" in outcome[0].json()["error"]["message"]
        assert _upload(served, "good", GUEST).status_code == 201
    assert [path.name for path in (tmp_path / "guests").iterdir()] == ["good.wasm"]


def test_a_compiler_that_has_no_memory_for_a_library_is_one_that_needed_too_much() -> None:
    said = _failure("bomb", LINKER_FAILED, b"", 1.0, 2 * 1024**2)
    assert isinstance(said, TooLarge)
    assert "more than 2 MiB" in str(said)


def _compilers() -> list[int]:
    """Return the processes of this one that compile uploads."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # of a thread or process that has ended meanwhile
            for child in map(int, (task / "children").read_text().split()):
                if b"promptd.wasm.trial" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def test_an_upload_that_stops_or_breaks_off_leaves_nothing(
    open_to_uploads: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "BODY_S", 0.3)
    address, _, port = open_to_uploads.url.removeprefix("http://").rpartition(":")
    head = (
        f"POST /v1/guests?name=slow HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/wasm\r\n"
        f"Content-Length: {len(GUEST)}\r\n\r\n"
    )
    with socket.create_connection((address, int(port))) as slow:
        slow.sendall(head.encode() + GUEST[:200])
        assert b" 408 " in slow.recv(4096).splitlines()[0]
    with socket.create_connection((address, int(port))) as gone:
        gone.sendall(head.encode() + GUEST[:200])
        wait_until(lambda: list(folder.iterdir()) != [])
    wait_until(lambda: list(folder.iterdir()) == [])
    assert _names(open_to_uploads) == ["configured"]


def test_more_uploads_than_allowed_are_refused(open_to_uploads: Served) -> None:
    assert _upload(open_to_uploads, "one", GUEST).status_code == 201
    refused = _upload(open_to_uploads, "two", GUEST)
    assert refused.status_code == 413 and "max-guests" in refused.json()["error"]["message"]
    open_to_uploads.http.delete("/v1/guests/one")


def test_only_an_admin_may_upload_and_delete(tmp_path: Path) -> None:
    keys = tuple(
        KeySettings(name=name, sha256=key_hash(name), scopes=scopes)
        for name, scopes in (("chatter", ("chat",)), ("root", ("chat", "admin")))
    )
    settings = Settings(server=ServerSettings(keys=keys), uploads=UploadSettings(folder=tmp_path / "guests"))
    with serving(settings) as served:
        chatter, root = {"X-Api-Key": "chatter"}, {"X-Api-Key": "root"}
        assert _upload(served, "mine", GUEST).status_code == 401
        assert _upload(served, "mine", GUEST, **chatter).status_code == 403
        assert _upload(served, "mine", GUEST, **root).status_code == 201
        assert served.http.delete("/v1/guests/mine", headers=chatter).status_code == 403
        assert len(served.http.get("/v1/guests", headers=chatter).json()["data"]) == 1
        assert served.http.delete("/v1/guests/mine", headers=root).status_code == 204
