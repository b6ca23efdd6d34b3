"""The daemon that is soaked: a process of its own, which serves what every kind of client needs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import magika

ROOT = Path(__file__).resolve().parent.parent.parent
_GUESTS = ROOT / "guests"
_CONTENT_TYPES = Path(magika.__file__).parent / "models" / magika.Magika().get_model_name()
_SETTINGS = f"""
[engine]
kv-tokens = 4096
keep-alive = 1
[graphs]
chat = {{ model = "smollm2", max-tokens = 6 }}
echo = {{ model = "echo" }}
filetype = {{ model = "file:{_CONTENT_TYPES}/model.onnx" }}
[guests.persona]
file = "{_GUESTS}/persona/persona.wasm"
graphs = ["chat"]
[guests.terminal]
file = "{_GUESTS}/terminal/chat.wasm"
graphs = ["chat"]
[guests.tensors]
file = "{_GUESTS}/conformance/wasm/2024-10-28.wasm"
graphs = ["echo"]
contexts = 1024
[guests.core-tensors]
file = "{_GUESTS}/conformance/wasm/core.wasm"
graphs = ["echo"]
contexts = 1024
[guests.filetype]
file = "{_GUESTS}/filetype/filetype.wasm"
graphs = ["filetype"]
args = ["/files/README.md"]
dirs = [
  {{ host = "{_CONTENT_TYPES}", guest = "/model", writable = false }},
  {{ host = "{_GUESTS}/filetype", guest = "/files", writable = false }},
]
"""
"""keep-alive is so short that models are unloaded whenever nobody has asked for a moment."""


@dataclass(frozen=True)
class Daemon:
    """Where a running daemon listens, and its process."""

    url: str
    pid: int


@contextmanager
def daemon() -> Iterator[Daemon]:
    """Run a daemon until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder, "promptd.toml"), Path(folder, "log")
        config.write_text(_SETTINGS)
        command = [str(Path(sys.executable).parent / "promptd"), "serve", "--config", str(config), "--port", "0"]
        with log.open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            if not (ready := process.stdout.readline()):
                raise RuntimeError(f"the daemon did not start: {log.read_text()}")
            yield Daemon(ready.split()[-1], process.pid)
        finally:
            process.terminate()
            process.wait()
