"""Many sessions that wait for their next line at once, beyond the 512 threads wasmtime has for what blocks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import wat
from guest_host import Host
from test_turns import CORE_LINES

from promptd.config import DirectoryGrant
from promptd.errors import Busy
from promptd.wasm import runtime
from promptd.wasm.grants import Grant
from promptd.wasm.stdio import Stdin

MANY = 600

BAD_READS = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 4) (i32.const 1000))
    (i32.store (i32.const 8) (i32.const 65000))
    (i32.store (i32.const 12) (i32.const 1000))
    (if (i32.ne (call $read (i32.const 0) (i32.const -16) (i32.const 1) (i32.const 32)) (i32.const 21))
      (then (call $exit (i32.const 1))))
    (if (i32.ne (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 65534)) (i32.const 21))
      (then (call $exit (i32.const 2))))
    (if (i32.ne (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 32)) (i32.const 21))
      (then (call $exit (i32.const 3))))
    (if (i32.ne (call $read (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 32)) (i32.const 21))
      (then (call $exit (i32.const 4))))
    (call $exit (i32.const 42))))"""
"""Reads to addresses outside its memory, and exits with 42 when each read is refused as such."""


@pytest.mark.parametrize("text", [CORE_LINES, wat.ECHO_LINES], ids=["core module", "component"])
def test_more_guests_than_wasmtime_has_threads_wait_and_leave_nothing_behind(host: Host, text: str) -> None:
    guest = host.load(text)
    warm = host.open(guest, stdin=Stdin.LINES).session
    warm.turn("warm")
    warm.close()
    threads, descriptors = threading.active_count(), len(list(Path("/dev/fd").iterdir()))
    opened = [host.open(guest, stdin=Stdin.LINES) for _ in range(MANY)]
    for number, each in enumerate(opened):
        assert each.session.turn(f"first {number}") is None
    for number, each in enumerate(opened):
        each.stdout.clear()
        assert each.session.turn(f"second {number}") is None
        assert each.stdout.decode() == f"second {number}\n"
    for each in opened:
        each.session.close()
    # Fewer, where a guest of an earlier test has woken up and gone meanwhile.
    assert threading.active_count() <= threads
    assert len(list(Path("/dev/fd").iterdir())) <= descriptors


def test_components_that_read_pipes_are_refused_before_wasmtime_runs_out_of_threads(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime, "READERS_LIMIT", 1)
    grant = Grant(dirs=(DirectoryGrant(host=tmp_path, guest="/here"),))
    first, second = (host.open(wat.ECHO_LINES, stdin=Stdin.LINES, grant=grant) for _ in range(2))
    assert first.session.turn("one") is None
    with pytest.raises(Busy, match="close a session"):
        second.session.turn("two")
    for guest in (CORE_LINES, wat.ECHO_LINES):
        host.open(guest, stdin=Stdin.LINES).session.turn("a guest that reads no pipe needs none")
    first.session.close()
    assert second.session.turn("three") is None
    assert second.stdout == b"three\n"


def test_reads_to_addresses_outside_the_memory_are_refused(host: Host) -> None:
    assert host.open(BAD_READS, stdin=Stdin.LINES).session.turn("anything") == 42


@pytest.mark.parametrize("text", [CORE_LINES, wat.ECHO_LINES], ids=["core module", "component"])
def test_a_guest_that_waits_for_its_next_line_ends_when_it_is_stopped(host: Host, text: str) -> None:
    opened = host.open(text, stdin=Stdin.LINES)
    opened.session.turn("one")
    asleep = host.runtime.sleepers
    opened.session.stop("enough")
    opened.session.close()
    assert host.runtime.sleepers <= asleep, "it was not left behind as one that sleeps"


OTHER_READS = wat.ECHO_LINES.replace("[method]input-stream.blocking-read", "[method]input-stream.read")
"""Reads without waiting, as guests do that were told that there is something to read."""


def test_a_component_waits_also_in_reads_that_need_not(host: Host) -> None:
    opened = host.open(OTHER_READS, stdin=Stdin.LINES)
    for line in ("one", "two"):
        opened.stdout.clear()
        assert opened.session.turn(line) is None
        assert opened.stdout.decode() == f"{line}\n"
    assert opened.session.finish() == 0


SPLICING = wat.ECHO_LINES.replace(
    '(export "[method]input-stream.blocking-read"',
    """(export "[method]output-stream.splice"
      (func (param "self" (borrow $out)) (param "src" (borrow $in)) (param "len" u64)
        (result (result u64 (error $se)))))
    (export "[method]input-stream.blocking-read\"""",
)


def test_a_component_that_splices_streams_reads_a_pipe(host: Host) -> None:
    guest = host.load(SPLICING)
    assert guest.splices and not host.load(wat.ECHO_LINES, "other").splices
    opened = host.open(guest, stdin=Stdin.LINES)
    assert opened.session.turn("one") is None
    assert opened.stdout == b"one\n"
