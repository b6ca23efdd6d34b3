"""`promptd chat` at a terminal: Ctrl-C stops the reply that is being made, and leaves at the prompt."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import PROMPTD
from endless import ENDLESS


class _Terminal:
    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process = process
        self._fd = fd
        self._screen = b""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read on until `text` comes; what follows it is for the next call."""
        while text.encode() not in self._screen:
            self._read()
        self._screen = self._screen.partition(text.encode())[2]

    def wait_for_more(self) -> None:
        self._screen = b""
        self._read()

    def ended(self) -> int:
        try:
            while True:
                self._read()
        except EOFError:
            return self.process.wait()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux says so when the other side has closed
            data = b""
        if not data:
            raise EOFError(self._screen.decode(errors="replace"))
        self._screen += data


@contextmanager
def _chat(*words: str) -> Iterator[_Terminal]:
    host, guest = pty.openpty()
    with subprocess.Popen(
        [PROMPTD, "chat", *words], stdin=guest, stdout=guest, stderr=guest, start_new_session=True, preexec_fn=_control
    ) as process:
        os.close(guest)
        try:
            yield _Terminal(process, host)
        finally:
            process.kill()
            os.close(host)


def _control() -> None:
    """Make the terminal on standard input the one whose Ctrl-C reaches the process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_stops_the_reply_and_the_chat_goes_on(smollm2: Path) -> None:
    options = [word for option in (*ENDLESS, "max-tokens=100000", "system=S") for word in ("-o", option)]
    with _chat("--graph", f"file:{smollm2}", *options) as terminal:
        terminal.wait_for("> ")
        for _ in range(2):
            terminal.type("Tell me a story.\n")
            terminal.wait_for("story.")
            terminal.wait_for_more()
            terminal.wait_for_more()
            terminal.type("\x03")
            terminal.wait_for("\n> ")
        terminal.type("/undo\n")
        terminal.wait_for("There is nothing to forget.")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_chat_that_is_ended_leaves_no_folder_behind(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = [word for option in (*ENDLESS, "max-tokens=100000") for word in ("-o", option)]
    with _chat("--graph", f"file:{smollm2}", *options) as terminal:
        terminal.wait_for("> ")
        terminal.type("Tell me a story.\n")
        terminal.wait_for("story.")
        terminal.wait_for_more()
        assert list(tmp_path.glob("promptd-spill-*"))
        terminal.process.send_signal(number)
        assert terminal.ended() == 128 + number
    assert not list(tmp_path.iterdir())


def test_ctrl_c_at_the_prompt_leaves() -> None:
    with _chat("--graph", "echo") as terminal:
        terminal.wait_for("> ")
        terminal.type("\x03")
        assert terminal.ended() == 130


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells a process's children in /proc")
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.008, 0.016, 0.032, 0.064])
def test_ctrl_c_while_the_command_line_is_imported_says_nothing(delay: float) -> None:
    with subprocess.Popen(
        [PROMPTD, "chat", "Hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():  # the worker process is there before anything else is imported
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 130
