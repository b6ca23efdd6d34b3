"""The files in deploy/: what they name is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy/promptd.service"
IMAGE = ROOT / "deploy/Dockerfile"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd to check units with")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "promptd.service"
    unit.write_text(UNIT.read_text().replace("/opt/promptd/bin/promptd", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "promptd.service:" in line] == []


def test_the_unit_reloads_and_gives_the_drain_its_time() -> None:
    from promptd.server.daemon import DRAIN_S

    text = UNIT.read_text()
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text
    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) > 2 * DRAIN_S
    assert int(re.findall(r"--stop-timeout (\d+)", IMAGE.read_text())[0]) > 2 * DRAIN_S


def test_a_reload_during_the_start_does_not_end_the_unit() -> None:
    assert "RestartForceExitStatus=SIGHUP" in UNIT.read_text()


def test_commands_of_unit_and_image_are_options_promptd_has() -> None:
    from typer.main import get_command

    from promptd.cli.application import application

    options = {option for parameter in get_command(application()).commands["serve"].params for option in parameter.opts}
    for file in (UNIT, IMAGE):
        line = next(line for line in file.read_text().splitlines() if line.startswith(("ExecStart", "CMD")))
        used = re.findall(r"--[a-z-]+", line)
        assert used and set(used) <= options


def _of_image(instruction: str) -> str:
    return next(line for line in reversed(IMAGE.read_text().splitlines()) if line.startswith(instruction))


def test_promptd_is_not_the_first_process_of_the_image() -> None:
    """The kernel keeps SIGTERM from a first process without a handler, and promptd has none while it gets models."""
    assert json.loads(_of_image("ENTRYPOINT").split(maxsplit=1)[1]) == ["tini", "--", "promptd"]
    assert re.search(r"apt-get install .*\btini\b", IMAGE.read_text())


def test_the_image_asks_itself_for_its_health_where_it_listens() -> None:
    command = json.loads(_of_image("CMD").split(maxsplit=1)[1])
    port = int(command[command.index("--port") + 1])
    assert f"EXPOSE {port}" in IMAGE.read_text().splitlines()
    check = shlex.split(_of_image("HEALTHCHECK").split(" CMD ")[1])
    assert check[:2] == ["python", "-c"] and f"'127.0.0.1', {port}," in check[2]

    def ask(port: int) -> int:
        away = {**os.environ, "http_proxy": "http://127.0.0.1:9"}  # models may come through one; the daemon does not
        code = check[2].replace(f"'127.0.0.1', {command[-1]},", f"'127.0.0.1', {port},")
        return subprocess.run([sys.executable, "-c", code], env=away, capture_output=True, check=False).returncode

    with _answering(200) as healthy, _answering(503) as sick:
        assert (ask(healthy), ask(sick)) == (0, 1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    assert ask(nobody) == 1


@contextmanager
def _answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def test_the_image_is_built_from_what_the_package_is_made_of_and_from_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert kept == {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["packages"],
        *wheel["force-include"],
        "scripts/build-llama",
        "scripts/llama.cpp",
    }
