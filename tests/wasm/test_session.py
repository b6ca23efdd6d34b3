"""How a guest ends: by itself, by a trap, by a limit, or because it was stopped; alone in every case."""

from __future__ import annotations

import gc
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import wat
from guest_host import Host

from promptd.backends.echo import EchoGraph, EchoPrompt
from promptd.chat import ChatOptions, Completion, Message, StopReason, Usage
from promptd.errors import Busy, InvalidArgument, TimedOut, TooLarge, UnsupportedOperation, code_of
from promptd.wasm.grants import Grant
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdin
from promptd.wasm.traps import GuestDeadline, GuestOutputLimit, GuestStopped, GuestTrap

LOOP = wat.command("(func $main (result i32) (loop $more (br $more)) (i32.const 0))")
"""Runs for ever, without a host call."""

SLEEPER = wat.command(
    """
    (func $main (result i32)
      (call $print (i32.const 1024) (i32.const 6))
      (call $block (call $after (i64.const 2_000_000_000)))
      (i32.const 0))
    (data (i32.const 1024) "asleep")""",
    imports=wat.SLEEP,
    lowerings=wat.SLEEP_LOWERINGS,
    given=wat.SLEEP_GIVEN,
)
"""Sleeps for two seconds inside WASI, where wasmtime cannot interrupt it."""

IN_TIME_TO_SLEEP_S = 0.5
"""A deadline that has passed when SLEEPER wakes, and not before it sleeps, also on a machine that is busy."""


class Thinking(EchoGraph):
    """A graph whose replies come only when they are cancelled."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.cancelled = threading.Event()
        self.closed = threading.Event()

    def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> ThinkingPrompt:
        return ThinkingPrompt(self)


class ThinkingPrompt(EchoPrompt):
    def __init__(self, graph: Thinking) -> None:
        super().__init__()
        self._graph = graph

    def send(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions(), *, deadline: float | None = None
    ) -> ThinkingReply:
        return ThinkingReply(self._graph)

    def close(self) -> None:
        self._graph.closed.set()


class ThinkingReply:
    def __init__(self, graph: Thinking) -> None:
        self._graph = graph

    def __iter__(self) -> Iterator[str]:
        self.result()
        return iter(())

    def result(self) -> Completion:
        self._graph.asked.set()
        assert self._graph.cancelled.wait(20)
        return Completion("", StopReason.CANCELLED, Usage(0, 0, 0))

    def cancel(self) -> None:
        self._graph.cancelled.set()


def on_thread(work: Callable[[], object]) -> Callable[[], object]:
    """Start `work` on a thread, and return a function that waits for its result or raises its exception."""
    result: list[object] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> object:
        thread.join(20)
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    return wait


def test_a_command_that_returns_ok_exits_with_0_and_one_that_returns_err_with_1(host: Host) -> None:
    assert host.run(wat.command("(func $main (result i32) (i32.const 0))")) == (0, "")
    assert host.run(wat.command("(func $main (result i32) (i32.const 1))")) == (1, "")


@pytest.mark.parametrize("code", [0, 1])
def test_a_component_can_exit_from_the_middle(host: Host, code: int) -> None:
    assert host.run(wat.command(f"(func $main (result i32) (call $exit (i32.const {code})) unreachable)")) == (code, "")


def test_a_component_can_exit_with_any_code(host: Host) -> None:
    exit = '(export "exit" (func (param "status" (result))))'
    with_code = '(export "exit-with-code" (func (param "status-code" u8)))'
    guest = wat.command(
        "(func $main (result i32) (call $exit-with-code (i32.const 3)) unreachable)",
        lowerings='\n  (core func $exit-with-code (canon lower (func $exit "exit-with-code")))',
        given='\n    (import "" "exit-with-code" (func $exit-with-code (param i32)))',
    )
    assert host.run(guest.replace(exit, exit + with_code)) == (3, "")


@pytest.mark.parametrize("code", [0, 3, 125])
def test_a_core_command_exits_with_the_code_of_proc_exit(host: Host, code: int) -> None:
    text = f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"""
    assert host.run(text) == (code, "")


def test_a_core_command_that_returns_exits_with_0(host: Host) -> None:
    assert host.run('(module (func (export "_start")))') == (0, "")


TRAPS = {
    "unreachable": ("unreachable", "it reached an `unreachable` instruction"),
    "a stack overflow": (
        "(func $f (call $f)) (func $main (result i32) (call $f) (i32.const 0))",
        "its call stack overflowed",
    ),
    "a wild pointer": ("(i32.load (i32.const -8))", "it accessed memory outside its bounds"),
    "a division by zero": ("(i32.div_u (i32.const 1) (i32.const 0))", "it divided an integer by zero"),
}


@pytest.mark.parametrize(("body", "sentence"), TRAPS.values(), ids=TRAPS)
def test_a_trap_is_one_sentence_and_exit_code_134(host: Host, body: str, sentence: str) -> None:
    main = body if "$main" in body else f"(func $main (result i32) {body})"
    for guest in (wat.command(main), f'(module (memory 1) {main} (func (export "_start") (drop (call $main))))'):
        with pytest.raises(GuestTrap) as trapped:
            host.run(guest)
        assert str(trapped.value).startswith(f"guest guest trapped: {sentence}")
        assert trapped.value.exit_code == 134
        assert "\n" not in str(trapped.value)


def test_what_a_guest_wrote_before_its_trap_is_delivered(host: Host) -> None:
    opened = host.open(
        wat.command(
            """(data (i32.const 64) "last words")
            (func $main (result i32) (call $print (i32.const 64) (i32.const 10)) unreachable)"""
        )
    )
    with pytest.raises(GuestTrap):
        opened.session.run()
    assert opened.stdout == b"last words"


def test_an_endless_loop_is_stopped_at_the_deadline(host: Host) -> None:
    with pytest.raises(GuestDeadline, match=r"its deadline of 0\.1 s passed") as stopped:
        host.run(LOOP, deadline=0.1)
    assert stopped.value.exit_code == 134
    assert isinstance(stopped.value, TimedOut)
    assert code_of(stopped.value).http == 504


def test_an_endless_loop_while_the_guest_is_instantiated_is_stopped_too(host: Host) -> None:
    looping = """(component
      (core module $m (func $s (loop $l (br $l))) (start $s) (func (export "run") (result i32) (i32.const 0)))
      (core instance $main (instantiate $m))"""
    with pytest.raises(GuestDeadline):
        host.run(looping + wat.RUN + ")", deadline=0.1)


def test_time_inside_host_calls_counts_towards_the_deadline(host: Host) -> None:
    graph = host.graphs["echo"] = Thinking()
    with pytest.raises(GuestDeadline):
        host.run(wat.prompting("echo", "hi"), deadline=1.0)
    assert graph.cancelled.is_set()


def test_a_guest_asleep_in_wasi_does_not_hold_its_caller_past_the_deadline(host: Host) -> None:
    opened = host.open(SLEEPER, deadline=IN_TIME_TO_SLEEP_S)
    with pytest.raises(GuestDeadline):
        opened.session.run()
    assert opened.stdout == b"asleep"
    opened.session.close()
    assert host.runtime.sleepers == 1
    while host.runtime.sleepers:
        threading.Event().wait(0.05)


def test_a_guest_that_sleeps_too_often_is_refused_and_holds_up_no_other(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptd.wasm.runtime.SLEEPERS_LIMIT", 1)
    sleeper, other = host.load(SLEEPER, "sleeper"), host.load(wat.ECHO_LINES, "other")
    with host.open(sleeper, deadline=IN_TIME_TO_SLEEP_S).session as session, pytest.raises(GuestDeadline):
        session.run()
    with pytest.raises(Busy, match="1 stopped instances of guest sleeper still sleep inside a WASI call"):
        host.run(sleeper)
    assert host.run(other, stdin=b"hello") == (0, "hello")
    while host.runtime.sleepers:
        threading.Event().wait(0.05)
    with host.open(sleeper, deadline=IN_TIME_TO_SLEEP_S).session as session, pytest.raises(GuestDeadline):
        session.run()


def test_a_running_guest_is_stopped_from_another_thread(host: Host) -> None:
    opened = host.open(
        wat.command(
            "(func $main (result i32) (call $print (i32.const 0) (i32.const 1)) (loop $l (br $l)) (i32.const 0))"
        )
    )
    ended = on_thread(opened.session.run)
    while not opened.stdout:
        threading.Event().wait(0.01)
    opened.session.stop("the test is over")
    with pytest.raises(GuestStopped, match="guest guest was stopped: the test is over"):
        ended()


def test_a_guest_inside_a_host_call_is_stopped_and_its_reply_cancelled(host: Host) -> None:
    graph = host.graphs["echo"] = Thinking()
    opened = host.open(wat.prompting("echo", "hi"))
    ended = on_thread(opened.session.run)
    assert graph.asked.wait(20)
    opened.session.stop()
    with pytest.raises(GuestStopped):
        ended()
    assert graph.cancelled.is_set()
    opened.session.close()
    assert graph.closed.is_set()


def test_a_guest_blocked_in_a_read_is_stopped(host: Host) -> None:
    reading = "(func $main (result i32) (call $print (i32.const 0) (i32.const 1)) (drop (call $input)) (i32.const 0))"
    opened = host.open(wat.command(reading), stdin=Stdin.LINES)
    ended = on_thread(opened.session.run)
    while not opened.stdout:
        threading.Event().wait(0.01)
    opened.session.stop()
    with pytest.raises(GuestStopped):
        ended()


def test_closing_a_session_ends_a_guest_that_waits_for_input(host: Host) -> None:
    opened = host.open(wat.ECHO_LINES, stdin=Stdin.LINES)
    assert opened.session.turn("hello") is None
    opened.session.close()
    assert opened.session.ended
    with pytest.raises(GuestStopped):
        opened.session.turn("again")


def test_a_session_stopped_before_its_guest_ran_never_runs_it(host: Host) -> None:
    opened = host.open(LOOP)
    opened.session.stop("not wanted")
    with pytest.raises(GuestStopped, match="not wanted"):
        opened.session.run()


def test_memory_past_the_limit_is_refused_to_the_guest(host: Host) -> None:
    grow = """
    (func $main (result i32)
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
      (i32.store (i32.const 8) (memory.size))
      (call $print (i32.const 8) (i32.const 4))
      (i32.const 0))"""
    opened = host.open(wat.command(grow), memory=8 * 1024**2)
    assert opened.session.run() == 0
    pages = int.from_bytes(opened.stdout, "little")
    assert 8 * 16 - 16 < pages <= 8 * 16


def test_several_memories_share_one_limit(host: Host) -> None:
    memory = "(core module $m (memory 100)) (core instance (instantiate $m)) (core instance (instantiate $m))"
    guest = host.load(
        wat.command("(func $main (result i32) (i32.const 0))").replace("(component", "(component " + memory, 1)
    )
    assert guest.memories == 3
    assert host.run(guest, memory=3 * 100 * 65536) == (0, "")
    with pytest.raises(GuestTrap, match=r"it needs 6\.2 MiB of memory to start"):
        host.run(guest, memory=2 * 100 * 65536)


def test_a_guest_that_needs_more_memory_than_it_may_have_says_so(host: Host) -> None:
    with pytest.raises(GuestTrap, match=r"it needs 0\.1 MiB of memory to start, more than its limit of 0\.1 MiB"):
        host.run(wat.ECHO_LINES, memory=65536)


def test_a_flood_of_output_is_stopped_and_delivered_up_to_its_limit(host: Host) -> None:
    flood = "(func $main (result i32) (loop $l (call $print (i32.const 1024) (i32.const 4000)) (br $l)) (i32.const 0))"
    opened = host.open(wat.command(flood), output=100_000)
    with pytest.raises(GuestOutputLimit, match="it wrote more than its limit of 100000 bytes") as stopped:
        opened.session.run()
    assert len(opened.stdout) == 100_000
    assert isinstance(stopped.value, TooLarge)


def test_output_larger_than_any_pipe_is_delivered_before_run_returns(host: Host) -> None:
    twice = "(call $print (i32.const 0) (i32.const 131072))" * 2
    text = f"(func $main (result i32) {twice} (i32.const 0))"
    code, output = host.run(wat.command(text))
    assert code == 0
    assert len(output) == 262_144


def test_a_sink_that_fails_stops_the_guest_and_its_exception_reaches_the_caller(host: Host) -> None:
    class Gone(Exception):
        pass

    def refuse(data: bytes) -> None:
        raise Gone

    opened = host.open(
        wat.command(
            "(func $main (result i32) (loop $l (call $print (i32.const 0) (i32.const 1)) (br $l)) (i32.const 0))"
        )
    )
    opened.session._streams._stdio = type(opened.session._streams._stdio)(Stdin.CLOSED, refuse, refuse)
    with pytest.raises(Gone):
        opened.session.run()
    assert opened.session.ended


def test_a_session_runs_its_guest_once(host: Host) -> None:
    opened = host.open(wat.command("(func $main (result i32) (i32.const 0))"))
    opened.session.run()
    with pytest.raises(InvalidArgument, match="has exited; open a new session"):
        opened.session.run()


def test_two_calls_of_one_session_do_not_overlap(host: Host) -> None:
    graph = host.graphs["echo"] = Thinking()
    opened = host.open(wat.prompting("echo", "hi"))
    ended = on_thread(opened.session.run)
    assert graph.asked.wait(20)
    with pytest.raises(Busy):
        opened.session.run()
    opened.session.stop()
    with pytest.raises(GuestStopped):
        ended()


def test_a_command_does_not_answer_messages_and_a_handler_is_not_run(host: Host) -> None:
    with pytest.raises(UnsupportedOperation, match="is no chat handler"):
        host.open(LOOP).session.respond([Message("user", "hi")])
    with pytest.raises(UnsupportedOperation, match="is no command"):
        host.open(wat.HANDLER).session.run()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_is_no_error_ends_the_guest_and_not_the_process(
    host: Host, error: type[BaseException]
) -> None:
    class Exploding(EchoGraph):
        def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> EchoPrompt:
            raise error

    host.graphs["echo"] = Exploding()
    with pytest.raises(GuestTrap, match=f"a host function failed \\({error.__name__}\\)"):
        host.run(wat.prompting("echo", "hi"))
    host.graphs["echo"] = EchoGraph()
    assert host.run(wat.prompting("echo", "hi")) == (0, "hi")


def test_a_process_without_file_descriptors_left_refuses_another_session(host: Host) -> None:
    guest = host.load(LOOP)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(Busy, match="no pipes are left for another guest"):
            host.open(guest)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_session_that_is_forgotten_is_closed_with_a_warning(host: Host) -> None:
    graph = host.graphs["echo"] = Thinking()
    guest = host.load(wat.prompting("echo", "hi"))
    session = Session(host.runtime, guest, Grant(graphs=frozenset({"echo"})), host.graph)
    graph.cancelled.set()
    session.run()
    with pytest.warns(ResourceWarning, match="a session of guest guest was not closed"):
        del session
        gc.collect()
    assert graph.closed.is_set()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_closed_session_leaves_no_file_descriptor_and_no_thread(host: Host) -> None:
    guest = host.load(wat.ECHO_LINES)
    opened = host.open(guest, stdin=Stdin.LINES)
    opened.session.turn("warm up")
    opened.session.close()
    before = open_files(), threading.active_count()
    for _ in range(20):
        opened = host.open(guest, stdin=Stdin.LINES)
        opened.session.turn("hello")
        opened.session.close()
    for _ in range(200):  # threads need a moment to end
        if open_files() <= before[0] and threading.active_count() <= before[1]:
            break
        threading.Event().wait(0.05)
    assert open_files() <= before[0]
    assert threading.active_count() <= before[1]
