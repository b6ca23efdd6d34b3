"""`promptd serve` as a process: its ready line, its signals, its refusals."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from endless import ENDLESS
from serving import PATIENCE_S, serving, wait_until

from promptd.config import GraphSettings, Settings

COMMAND = (sys.executable, "-c", "from promptd.cli import main; main()", "serve")


@contextmanager
def _daemon(*options: str, url: str = "http://127.0.0.1:") -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """Run the daemon on a free port and wait for its ready line."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    try:
        line = process.stdout.readline()
        assert line.startswith(f"promptd is listening on {url}"), process.stderr.read()
        with httpx2.Client(base_url=line.split()[-1], timeout=PATIENCE_S, trust_env=False) as http:
            yield process, http
    finally:
        process.kill()
        process.communicate()


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_cleanly(number: signal.Signals, guest_files: dict[str, Path]) -> None:
    with _daemon("--graph", "echo=echo", "--guest", f"handler={guest_files['handler']}") as (process, http):
        session = http.post("/v1/sessions", json={"guest": "handler"}).json()["id"]
        assert http.post(f"/v1/sessions/{session}/messages", json={"content": "hi"}).status_code == 200
        process.send_signal(number)
        assert _ended(process) == (0, "")


def test_sigterm_lets_a_short_reply_end(smollm2: Path) -> None:
    with _daemon("--graph", f"chat=file:{smollm2}", "-o", "chat.temperature=0") as (process, http):
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 10}
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            process.terminate()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert _ended(process) == (0, "")


def test_sigterm_ends_long_replies_with_an_error_and_leaves_no_process(
    smollm2: Path, guest_files: dict[str, Path]
) -> None:
    options = [word for option in ENDLESS for word in ("-o", f"chat.{option}")]
    graph = ("--graph", f"chat=file:{smollm2}", *options)
    with _daemon(*graph, "--guest", f"handler={guest_files['handler']}") as (process, http):
        story: Any = {"messages": [{"role": "user", "content": "#Tell me a long story."}], "stream": True}
        with (
            http.stream("POST", "/v1/chat/completions", json={"model": "guest/handler", **story}) as guests,
            http.stream("POST", "/v1/chat/completions", json={"model": "chat", **story}) as graphs,
        ):
            of_guest, of_graph = guests.iter_lines(), graphs.iter_lines()
            next(of_guest), next(of_graph)
            tasks = Path(f"/proc/{process.pid}/task").iterdir()
            workers = [child for task in tasks for child in (task / "children").read_text().split()]
            process.terminate()
            wait_until(lambda: http.get("/readyz").json() == {"status": "shutting-down"})
            refused = http.post("/v1/sessions", json={"graph": "chat"})
            assert (refused.status_code, refused.json()["error"]["message"]) == (503, "promptd is shutting down")
            assert "shutting down" in [line for line in of_guest if line][-1]
            assert "shutting down" in [line for line in of_graph if line][-1]
        assert _ended(process) == (0, "")
        assert workers
        assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


SLEEPER = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))  ;; the monotonic clock, in an hour
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))
"""


def test_a_signal_ends_the_daemon_though_a_guest_sleeps_where_nothing_wakes_it(tmp_path: Path) -> None:
    guest = tmp_path / "sleeper.wat"
    guest.write_text(SLEEPER)
    with _daemon("--guest", f"sleeper={guest}") as (process, http):
        body = {"model": "guest/sleeper", "messages": [{"role": "user", "content": "hi"}]}
        with pytest.raises(httpx2.ReadTimeout):
            http.post("/v1/chat/completions", json=body, timeout=1)
        process.terminate()
        assert _ended(process)[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--graph", "echo=echo", "--host", "0.0.0.0"), "--allow-remote"),
        (("--graph", "echo=echo", "--host", "not an address"), "cannot listen on"),
        ((), "nothing to serve"),
        (("--graph", "echo"), "NAME=REF"),
        (("--graph", "echo=echo", "-o", "echo.warmth=1"), "warmth"),
        (("--guest", "bot=missing.wasm"), "missing.wasm"),
        (("--graph", "chat=no-such-model", "--offline"), "no-such-model"),
        (("--config", "missing.toml"), "missing.toml"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--port", "0", *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("promptd: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--graph", "e=echo", "--port", port], capture_output=True, text=True)
    assert done.returncode == 1
    reason = f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another with --port"
    assert done.stderr == f"promptd: {reason}\n"


def test_settings_come_from_promptd_toml_and_the_command_line_goes_before(
    tmp_path: Path, guest_files: dict[str, Path]
) -> None:
    config = tmp_path / "promptd.toml"
    config.write_text(
        f"""
        [server]
        port = 1
        [graphs.one]
        model = "echo"
        [guests.bot]
        file = "{os.path.relpath(guest_files["lines"], tmp_path)}"
        """
    )
    with _daemon("--config", str(config), "--graph", "two=echo") as (_, http):
        names = [model["id"] for model in http.get("/v1/models").json()["data"]]
        assert names == ["one", "two", "guest/bot"]
        body = {"model": "guest/bot", "messages": [{"role": "user", "content": "hi"}]}
        assert http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"] == "said: hi"


def test_a_socket_file_is_a_door_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "promptd.sock"
    for _ in range(2):  # the second finds the file that the first, killed, left behind
        command = [*COMMAND, "--graph", "echo=echo", "--host", f"unix:{path}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            assert process.stdout.readline() == f"promptd is listening on unix:{path}\n"
            assert path.stat().st_mode & 0o777 == 0o600
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://localhost") as http:
                assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["echo"]
            taken = subprocess.run(command, capture_output=True, text=True)
            assert (taken.returncode, "Address already in use" in taken.stderr) == (1, True)
        finally:
            process.kill()
            process.communicate()


def test_with_keys_the_daemon_may_listen_everywhere(tmp_path: Path) -> None:
    printed = subprocess.run([*COMMAND[:-1], "key", "alice"], capture_output=True, text=True, check=True).stdout
    secret, lines = printed.removeprefix("key: ").split("\n", 1)
    config = tmp_path / "promptd.toml"
    config.write_text(lines)
    command = [*COMMAND, "--graph", "echo=echo", "--host", "0.0.0.0", "--port", "0", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        port = process.stdout.readline().rpartition(":")[2].strip()
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert http.get("/v1/models").status_code == 401
            assert http.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    finally:
        process.kill()
        process.communicate()


def test_a_client_that_never_ends_its_headers_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptd.server.connections.HEADERS_S", 0.2)
    with serving(Settings(graphs={"echo": GraphSettings(model="echo")})) as served:
        address = served.http.base_url.host, served.http.base_url.port or 0
        with socket.create_connection(address, timeout=PATIENCE_S) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            assert slow.recv(1) == b""
        with socket.create_connection(address, timeout=PATIENCE_S) as silent:
            assert silent.recv(1) == b""


@pytest.mark.parametrize(
    ("words", "said"), [(["a b"], "cannot be a key's name"), (["a", "--scope", "all"], "--scope is")]
)
def test_a_key_that_cannot_be_made_is_explained(words: list[str], said: str) -> None:
    done = subprocess.run([*COMMAND[:-1], "key", *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr and "pattern" not in done.stderr


def test_settings_can_be_checked_without_serving(tmp_path: Path) -> None:
    config = tmp_path / "promptd.toml"
    config.write_text('[graphs.one]\nmodel = "echo"\n')
    done = subprocess.run([*COMMAND, "--config", str(config), "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the settings are right: 1 graph, 0 guests, 0 keys\n")
    config.write_text('[graphs.one]\nmodel = "echo"\nwarmth = 1\n')
    done = subprocess.run([*COMMAND, "--config", str(config), "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "graphs.one.warmth" in done.stderr
    for model, words in (("smolm2", "did you mean smollm2?"), ("file:gone.gguf", "there is no file")):
        config.write_text(f'[graphs.one]\nmodel = "{model}"\n')
        done = subprocess.run([*COMMAND, "--config", str(config), "--check"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_checking_settings_refuses_an_address_that_the_start_would_refuse() -> None:
    words = [*COMMAND, "--graph", "one=echo", "--check", "--host", "0.0.0.0"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing asks them for a key" in done.stderr
    done = subprocess.run([*words, "--allow-remote"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_log_names_each_request(tmp_path: Path, guest_files: dict[str, Path]) -> None:
    config = tmp_path / "promptd.toml"
    config.write_text('[graphs.one]\nmodel = "echo"\n[server]\nlog = "json"\n')
    with _daemon("--config", str(config), "--guest", f"handler={guest_files['handler']}") as (process, http):
        body = {"model": "guest/handler", "messages": [{"role": "user", "content": "*"}]}
        headers = {"X-Request-Id": "my-request.1"}
        assert http.post("/v1/chat/completions", json=body, headers=headers).headers["X-Request-Id"] == "my-request.1"
        made = http.get("/v1/models", headers={"X-Request-Id": "no good"}).headers["X-Request-Id"]
        assert made.startswith("req_")
        http.get("/healthz")
        process.terminate()
        _, errors = _ended(process)
    lines = [json.loads(line) for line in errors.splitlines()]
    requests = [line for line in lines if line["logger"] == "promptd.request"]
    assert [(line["route"], line["status"], line["request_id"]) for line in requests] == [
        ("/v1/chat/completions", 500, "my-request.1"),
        ("/v1/models", 200, made),
    ]


def test_a_running_daemon_is_asked_through_its_control_socket(tmp_path: Path, smollm2: Path) -> None:
    config = tmp_path / "promptd.toml"
    key = f'[[server.keys]]\nname = "a"\nsha256 = "{"0" * 64}"\n'
    config.write_text(f"[server]\npreload = true\n{key}")
    with _daemon("--config", str(config), "--graph", f"chat=file:{smollm2}") as (process, http):
        port = str(http.base_url.port)

        def ask(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*COMMAND[:-1], *words, "--port", port], capture_output=True, text=True)

        wait_until(lambda: http.get("/readyz").status_code == 200)
        assert http.get("/v1/models").status_code == 401
        assert [engine["graph"] for engine in json.loads(ask("ps", "--json").stdout)] == ["chat"]
        (engine,) = json.loads(ask("ps", "--json").stdout)
        resident = int(Path(f"/proc/{engine['worker_pid']}/statm").read_text().split()[1]) * resource.getpagesize()
        assert engine["memory"]["worker_resident"] == pytest.approx(resident, rel=0.05)
        headings, row = (re.split(" {2,}", line) for line in ask("ps").stdout.splitlines())
        assert headings == ["NAME", "DIGEST", "SIZE", "PROCESSOR", "CONTEXT", "RESIDENT/SPILLED", "TOKENS/S", "UNTIL"]
        assert [row[0], row[1], *row[3:7]] == ["chat", "-", engine["device"], str(engine["context"]), "0/0", "0.0"]
        assert row[7].endswith(" min")
        assert ask("stop", "chat").stdout == "chat is unloaded\n"
        assert json.loads(ask("ps", "--json").stdout) == []
        assert "no graph 'chat' is loaded" in ask("stop", "chat").stderr
        assert '"status": 401' in ask("logs").stdout
        process.terminate()
        assert _ended(process) == (0, "")
        assert "no daemon of this user answers" in ask("ps").stderr
