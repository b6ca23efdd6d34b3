"""Completion as `promptd --install-completion` sets it up, in real shells, with a key that is really pressed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 60
SHOW = b"\x14"
"""Control-T, which has a shell write down the line that is being edited, and forget it."""
BINDINGS = {
    "bash": """
show() { printf '%s\\n' "$READLINE_LINE" >>"$SHOWN"; READLINE_LINE=; READLINE_POINT=0; }
bind -x '"\\C-t": show'
echo ready >>"$SHOWN"
""",
    "zsh": """
show() { print -r -- "$BUFFER" >>"$SHOWN"; BUFFER= }
zle -N show
bindkey '^T' show
zle-line-init() { print ready >>"$SHOWN"; zle -D zle-line-init }
zle -N zle-line-init
""",
    "fish": """
function show; commandline >>$SHOWN; commandline ''; end
bind \\ct show
function ready --on-event fish_prompt; echo ready >>$SHOWN; functions -e ready; end
""",
}
"""What is added to the end of each shell's settings."""
SETTINGS = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}


class Shell:
    """An interactive shell of somebody who has just installed the completion, and nothing else."""

    def __init__(self, terminal: int, shown: int) -> None:
        self._terminal = terminal
        self._shown = shown
        """The end of a pipe that can be read from."""
        self._read = b""

    def after_tab(self, line: str) -> str:
        """Return what the line has become once Tab was pressed at its end."""
        os.write(self._terminal, line.encode() + b"\t" + SHOW)
        return self.next_line()

    def next_line(self) -> str:
        """Return what the shell writes down next."""
        while b"\n" not in self._read:
            assert select.select([self._shown], [], [], PATIENCE_S)[0], self._read
            self._read += os.read(self._shown, 4096)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"this machine has no {name}")
    home = tmp_path
    fifo = home / "shown"
    os.mkfifo(fifo)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"HOME": str(home), "PATH": path, "TERM": "xterm", "LANG": "C.UTF-8", "SHOWN": str(fifo)}
    environment |= {"PROMPTD_HOME": str(home / "promptd")}
    install = [name, "-c", "promptd --install-completion; true"]  # which a shell does not become in place of itself
    done = subprocess.run(install, env=environment, capture_output=True, text=True, cwd=home, check=True)
    assert f"{name} completion installed" in done.stdout, done.stderr
    settings = home / SETTINGS[name]
    settings.parent.mkdir(parents=True, exist_ok=True)
    with settings.open("a") as file:
        file.write(BINDINGS[name])
    shown = os.open(fifo, os.O_RDWR)
    terminal, end = pty.openpty()
    command = ["setsid", "--ctty", name, "-i"]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment, cwd=home)
    os.close(end)
    threading.Thread(target=_drain, args=(terminal,), daemon=True).start()
    opened = Shell(terminal, shown)
    try:
        assert opened.next_line() == "ready"
        yield opened
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(shown)


def _drain(terminal: int) -> None:
    """Read what a shell paints until it ends: it would wait for a reader."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass


def test_tab_completes_commands_options_and_names(shell: Shell) -> None:
    assert shell.after_tab("promptd sho") == "promptd show "
    assert shell.after_tab("promptd serve --che") == "promptd serve --check "
    assert shell.after_tab("promptd pull smollm2:36") == "promptd pull smollm2:360m "
    assert shell.after_tab("promptd run --graph chat=ech") == "promptd run --graph chat=echo "
