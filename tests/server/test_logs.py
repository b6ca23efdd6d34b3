"""The lines that are logged for a request, wherever it is at work, carry its id."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from promptd.config import GraphSettings, GuestSettings, Settings
from promptd.server.logs import JsonLines

ASKING = r"""(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $size i32)
    (loop $more
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
      (local.set $size (i32.load (i32.const 16)))
      (if (i32.eqz (local.get $size)) (then return))
      (drop (call $load (i32.const 1024) (i32.sub (local.get $size) (i32.const 1)) (i32.const 32)))
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (local.get $size))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
      (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))
      (br $more))))
"""
"""A command that asks for the graph each line names, and says the line to both its outputs."""


class _Kept(logging.Handler):
    """Keeps the lines that would be written, as objects."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def kept() -> Iterator[_Kept]:
    logger = logging.getLogger("promptd")
    level = logger.level
    logger.setLevel(logging.INFO)  # by which all loggers forget what they were asked under another level
    handler = _Kept()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_what_a_command_does_for_a_message_is_logged_with_that_messages_request(kept: _Kept, tmp_path: Path) -> None:
    file = tmp_path / "asking.wat"
    file.write_text(ASKING)
    settings = Settings(graphs={"echo": GraphSettings(model="echo")}, guests={"asking": GuestSettings(file=file)})
    with serving(settings) as served:
        session = served.open(guest="asking")
        for number in range(3):
            body = {"content": f"graph-{number}", "stream": False}
            headers = {"X-Request-Id": f"request-{number}"}
            answer = served.http.post(f"/v1/sessions/{session}/messages", json=body, headers=headers)
            assert answer.json()["content"] == f"graph-{number}"
    for logger in ("promptd.grants", "promptd.server.guests"):
        lines = [line for line in kept.lines if line["logger"] == logger]
        assert [line["request_id"] for line in lines] == ["request-0", "request-1", "request-2"], kept.lines
        assert all(f"graph-{number}" in line["message"] for number, line in enumerate(lines))
