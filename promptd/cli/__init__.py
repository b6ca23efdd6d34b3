"""The `promptd` command. What takes longest is begun first: a worker process starts while the command line is
imported.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType

EXIT_INTERRUPTED = 128 + 2
"""What a shell reports for a process that SIGINT ended."""
_MODEL_OPTIONS = ("--graph", "-o", "--option", "--config", "--nn-preload")


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to look for some takes 10 ms; promptd needs none
    try:
        if _will_load_a_model(words):
            gc.disable()  # until the guest runs: what is made by then stays, and looking through it takes its time
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    signal.signal(number, _end)
            from promptd.engine.prestart import prestart

            prestart(_what_is_loaded(words))
        from promptd.cli.application import run

        run(words)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _end(number: int, frame: FrameType | None) -> None:
    """Leave as one who was ended by that signal, but clear up before: a worker has a temporary folder."""
    sys.exit(128 + number)


def _what_is_loaded(words: Sequence[str]) -> tuple[str, ...]:
    """Return what of a command says which model it loads, and how; where it runs is part of that."""
    command, *rest = (word for word in words if word not in ("-v", "--verbose"))
    options = [pair for pair in pairwise(rest) if pair[0] in _MODEL_OPTIONS]
    joined = [word for word in rest if word.partition("=")[0] in _MODEL_OPTIONS and "=" in word]
    try:
        folder = str(Path.cwd())
    except OSError:
        folder = ""
    return (folder, command, *(word for pair in options for word in pair), *joined)


def _will_load_a_model(words: Sequence[str]) -> bool:
    """Guess whether a command loads a model of its own. A wrong guess costs a process that ends unused."""
    command = next((word for word in words if word not in ("-v", "--verbose")), "")
    if command not in ("run", "chat") or "--help" in words:
        return False
    graphs = [value for word, value in pairwise(words) if word == "--graph"]
    graphs += [word for word in words if word.startswith("--graph=")]
    configured = any(word.startswith("--config") for word in words) or Path("promptd.toml").exists()
    return command == "chat" or configured or not all(graph.endswith("=echo") for graph in graphs)
