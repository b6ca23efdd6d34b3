"""Guests in a process of their own: its standard streams, its signals, its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wat

Start = Callable[[str], subprocess.Popen[bytes]]

PROGRAM = """
import sys
from pathlib import Path
from promptd.backends.echo import EchoGraph
from promptd.wasm.grants import Grant
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdin, Stdio

runtime = Runtime()
guest = runtime.load(Path(sys.argv[1]))
grant = Grant(graphs=frozenset({"echo"}))
with Session(runtime, guest, grant, lambda name: EchoGraph(), Stdio(Stdin.INHERIT)) as session:
    try:
        code = session.run()
    except KeyboardInterrupt:
        print("interrupted")
        code = 130
sys.exit(code)
"""

GREETING_LOOP = wat.command(
    """(data (i32.const 1024) "started") (func $main (result i32)
    (call $print (i32.const 1024) (i32.const 7)) (loop $more (br $more)) (i32.const 0))"""
)
GREETING_READ = wat.command(
    """(data (i32.const 1024) "started") (func $main (result i32)
    (call $print (i32.const 1024) (i32.const 7)) (drop (call $input)) (i32.const 0))"""
)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(text: str) -> subprocess.Popen[bytes]:
        path = tmp_path / "guest.wat"
        path.write_text(text)
        return subprocess.Popen(
            [sys.executable, "-u", "-c", PROGRAM, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def test_the_streams_of_the_process_are_those_of_the_guest(start: Start) -> None:
    process = start(wat.ECHO_LINES)
    assert process.communicate(b"from outside\n", timeout=30) == (b"from outside\n", b"")
    assert process.returncode == 0


@pytest.mark.parametrize("text", [GREETING_LOOP, GREETING_READ], ids=["in wasm", "in a read of standard input"])
def test_control_c_ends_a_guest_and_leaves_the_process_in_order(start: Start, text: str) -> None:
    process = start(text)
    assert process.stdout and process.stderr
    assert process.stdout.read(7) == b"started"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == b"interrupted\n"
    assert process.wait(30) == 130
    assert process.stderr.read() == b""


def test_a_process_that_exits_right_after_a_guest_leaves_in_silence(start: Start) -> None:
    for _ in range(10):
        process = start(wat.prompting("echo", "hello"))
        assert process.communicate(timeout=30) == (b"hello", b"")
        assert process.returncode == 0


def test_a_reader_that_goes_away_ends_the_guest(start: Start) -> None:
    flood = "(func $main (result i32) (loop $l (call $print (i32.const 0) (i32.const 4096)) (br $l)) (i32.const 0))"
    process = start(wat.command(flood))
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert b"BrokenPipeError" in process.stderr.read()
    assert process.wait(30) == 1


SHORT_LIVES = """
import threading
from promptd.wasm.control import Control
from promptd.wasm.idle import Idle
from promptd.wasm.stdio import Stdin, Stdio, Streams

streams, end = Streams(Stdio(Stdin.LINES), 0), threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range(64)]
for thread in threads:
    thread.start()
end.set()
for thread in threads:
    thread.join()
print(any(Idle(streams, Control("guest"), thread, lambda: True).waits() for thread in threads))
"""


def test_guests_that_end_before_anyone_looks_at_them_leave_the_process_alive() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_LIVES], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


LOAD = """
import sys
from pathlib import Path
from promptd.wasm.runtime import Runtime

Runtime().load(Path(sys.argv[1]))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)  # ru_maxrss would be that of the process this one was forked from
"""


def test_the_memories_of_a_component_share_what_it_gets_while_it_is_loaded(tmp_path: Path) -> None:
    grasping = """(core module $m
      (memory 1)
      (func $s
        (if (i32.ne (memory.grow (i32.const 1600)) (i32.const -1))
          (then (memory.fill (i32.const 0) (i32.const 1) (i32.const 104857600)))))
      (start $s))"""
    path = tmp_path / "guest.wat"
    ten = "(core instance (instantiate $m))" * 10
    path.write_text(wat.ECHO_LINES.replace("(component", f"(component {grasping} {ten}", 1))
    done = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) < 256 + 150
