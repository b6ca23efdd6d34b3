"""Sessions with a command that reads lines: a turn ends when the guest waits for the next line, and not before."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import wat
from guest_host import Host

from promptd.backends.echo import EchoGraph, EchoPrompt, EchoReply
from promptd.config import DirectoryGrant
from promptd.errors import InvalidArgument
from promptd.wasm import idle
from promptd.wasm.grants import Grant
from promptd.wasm.stdio import Stdin
from promptd.wasm.traps import GuestDeadline, GuestTrap

BUSY_LINES = wat.command("""
    (func $main (result i32)
      (local $size i32) (local $left i32)
      (block $end (loop $more
        (local.set $size (call $input))
        (br_if $end (i32.eqz (local.get $size)))
        (local.set $left (i32.const 150000000))
        (loop $work (br_if $work (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (call $print (i32.load (i32.const 32)) (local.get $size))
        (br $more)))
      (i32.const 0))""")
"""Computes for a while between reading a line and printing it, without a host call."""

SLEEPY_LINES = wat.command(
    """
    (func $main (result i32)
      (local $size i32)
      (block $end (loop $more
        (local.set $size (call $input))
        (br_if $end (i32.eqz (local.get $size)))
        (call $print (i32.load (i32.const 32)) (i32.const 1))
        (call $block (call $after (i64.const 300_000_000)))
        (call $print (i32.load (i32.const 32)) (local.get $size))
        (br $more)))
      (i32.const 0))""",
    imports=wat.SLEEP,
    lowerings=wat.SLEEP_LOWERINGS,
    given=wat.SLEEP_GIVEN,
)
"""Prints the first letter of a line, sleeps for 0.3 s in WASI, and prints the line."""

PROMPTING_LINES = wat.command(
    """
    (data (i32.const 1024) "echo")
    (func $main (result i32)
      (local $size i32)
      (call $load-by-name (i32.const 1024) (i32.const 4) (i32.const 64))
      (call $init (i32.load (i32.const 68)) (i32.const 72))
      (block $end (loop $more
        (local.set $size (call $input))
        (br_if $end (i32.eqz (local.get $size)))
        (call $compute (i32.load (i32.const 76)) (i32.load (i32.const 32)) (local.get $size) (i32.const 84))
        (call $print-string (i32.const 88))
        (br $more)))
      (i32.const 0))""",
    version=wat.RELEASED,
)


CORE_LINES = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (i32.const 1000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $more (i32.load (i32.const 4))))))"""


@pytest.fixture
def piped(host: Host, tmp_path: Path) -> Grant:
    """Return a grant with which components read a pipe, so that it has to be found out when they wait."""
    return Grant(graphs=frozenset(host.graphs), dirs=(DirectoryGrant(host=tmp_path, guest="/here"),))


@pytest.fixture(params=["calls", "pipe"])
def reading(request: pytest.FixtureRequest, piped: Grant) -> Grant | None:
    """Return a grant for each way in which a component may read its lines."""
    return piped if request.param == "pipe" else None


@pytest.mark.parametrize("guest", [wat.ECHO_LINES, CORE_LINES], ids=["component", "core module"])
def test_each_turn_ends_with_the_whole_of_its_output(host: Host, guest: str, reading: Grant | None) -> None:
    opened = host.open(guest, stdin=Stdin.LINES, grant=reading)
    for i in range(50):
        opened.stdout.clear()
        assert opened.session.turn(f"line {i}") is None
        assert opened.stdout.decode() == f"line {i}\n"
    assert opened.session.finish() == 0


@pytest.mark.parametrize("guest", [BUSY_LINES, SLEEPY_LINES], ids=["computes", "sleeps"])
def test_a_guest_that_is_silent_for_a_while_has_not_ended_its_turn(
    host: Host, guest: str, reading: Grant | None
) -> None:
    opened = host.open(guest, stdin=Stdin.LINES, grant=reading)
    for line in ("first", "second"):
        opened.stdout.clear()
        assert opened.session.turn(line) is None
        assert opened.stdout.decode().endswith(f"{line}\n")


def test_a_guest_that_waits_for_a_model_has_not_ended_its_turn(host: Host, reading: Grant | None) -> None:
    class Slow(EchoGraph):
        def prompt_context(self, guest: str, *args: object) -> EchoPrompt:
            return SlowPrompt()

    class SlowPrompt(EchoPrompt):
        def send(self, *args: object, **how: object) -> EchoReply:  # type: ignore[override]
            threading.Event().wait(0.3)
            return super().send(*args, **how)  # type: ignore[arg-type]

    host.graphs["echo"] = Slow()
    opened = host.open(PROMPTING_LINES, stdin=Stdin.LINES, grant=reading)
    for line in ("first", "second"):
        opened.stdout.clear()
        assert opened.session.turn(line) is None
        assert opened.stdout.decode() == f"{line}\n"


def test_a_greeting_is_the_output_of_a_turn_without_a_line(host: Host) -> None:
    greeting = '(data (i32.const 1024) "hello!") (func $greet (call $print (i32.const 1024) (i32.const 6)))'
    text = wat.ECHO_LINES.replace("(func $main (result i32)", greeting + "(func $main (result i32)").replace(
        "(block $end", "(call $greet) (block $end", 1
    )
    opened = host.open(text, stdin=Stdin.LINES)
    assert opened.session.turn() is None
    assert opened.stdout == b"hello!"
    assert opened.session.turn("and now?") is None
    assert opened.stdout == b"hello!and now?\n"


def test_a_line_larger_than_the_pipe_arrives_whole(host: Host, reading: Grant | None) -> None:
    opened = host.open(wat.ECHO_LINES, stdin=Stdin.LINES, grant=reading)
    line = "0123456789" * 20_000
    assert opened.session.turn(line) is None
    assert opened.stdout.decode() == line + "\n"


def test_a_guest_that_exits_ends_the_turn_with_its_code(host: Host) -> None:
    opened = host.open(wat.command("(func $main (result i32) (drop (call $input)) (i32.const 1))"), stdin=Stdin.LINES)
    assert opened.session.turn() is None
    assert opened.session.turn("go") == 1
    assert opened.session.ended
    with pytest.raises(InvalidArgument, match="has exited"):
        opened.session.turn("more")


def test_a_guest_that_traps_ends_the_turn(host: Host) -> None:
    opened = host.open(wat.command("(func $main (result i32) (drop (call $input)) unreachable)"), stdin=Stdin.LINES)
    with pytest.raises(GuestTrap):
        opened.session.turn("go")


def test_the_deadline_is_for_each_turn_and_not_for_the_time_between(host: Host) -> None:
    opened = host.open(wat.ECHO_LINES, stdin=Stdin.LINES, deadline=1.0)
    for _ in range(3):
        assert opened.session.turn("quick") is None
        threading.Event().wait(0.5)
    busy = host.open(
        wat.command("(func $main (result i32) (drop (call $input)) (loop $l (br $l)) (i32.const 0))"),
        stdin=Stdin.LINES,
        deadline=1.0,
    )
    assert busy.session.turn() is None
    with pytest.raises(GuestDeadline):
        busy.session.turn("go")


def test_a_session_without_lines_takes_no_turns(host: Host) -> None:
    opened = host.open(wat.ECHO_LINES)
    with pytest.raises(InvalidArgument, match=r"only when its standard input is Stdin\.LINES"):
        opened.session.turn("hello")


@pytest.mark.parametrize("given", [b"", b"some text\nin two lines", bytes(range(256)) * 1000])
def test_standard_input_can_be_given_as_bytes(host: Host, given: bytes) -> None:
    opened = host.open(wat.ECHO_LINES, stdin=given)
    assert opened.session.run() == 0
    assert opened.stdout == given


def test_closed_standard_input_is_at_its_end(host: Host) -> None:
    assert host.run(wat.ECHO_LINES, stdin=Stdin.CLOSED) == (0, "")


def test_many_sessions_take_turns_at_once(host: Host) -> None:
    guest = host.load(PROMPTING_LINES)
    wrong: list[str] = []

    def talk(name: int) -> None:
        opened = host.open(guest, stdin=Stdin.LINES)
        for i in range(15):
            opened.stdout.clear()
            opened.session.turn(f"{name}: {i}")
            if opened.stdout.decode() != f"{name}: {i}\n":
                wrong.append(opened.stdout.decode())

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_turns_end_where_the_system_does_not_show_system_calls(
    host: Host, piped: Grant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "_FUTEX", "")
    opened = host.open(PROMPTING_LINES, stdin=Stdin.LINES, grant=piped)
    for line in ("first", "second"):
        opened.stdout.clear()
        assert opened.session.turn(line) is None
        assert opened.stdout.decode() == f"{line}\n"
