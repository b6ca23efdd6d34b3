"""llama-batched-bench and llama-server, built from the source that llama-cpp-python's sdist vendors: the same revision
of llama.cpp as promptd runs on, without promptd's patches.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
)
PROGRAMS = ("llama-batched-bench", "llama-server")
START_S = 60
REPLY_S = 600


class Upstream:
    """The built programs, for one model and number of threads."""

    def __init__(self, programs: Path, model: Path, threads: int) -> None:
        self._programs = programs
        self._model = model
        self._threads = threads

    def decode_rate(self, sequences: int, *, prompt: int, tokens: int) -> float:
        """Return llama-batched-bench's S_TG: tokens decoded each second by so many sequences together."""
        command = [
            self._programs / "llama-batched-bench",
            *("-m", self._model, "-c", sequences * (prompt + tokens) + 256, "-b", 512, "-ub", 512),
            *("-npp", prompt, "-ntg", tokens, "-npl", sequences, "-t", self._threads, "-tb", self._threads),
            *("--output-format", "jsonl"),
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
        return float(json.loads(line)["speed_tg"])

    @contextlib.contextmanager
    def server(self, *, slots: int, context: int) -> Iterator[Server]:
        """Run llama-server until the block ends; it is ready when the block begins."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            self._programs / "llama-server",
            *("-m", self._model, "--host", "127.0.0.1", "--port", port, "-np", slots, "-c", context),
            *("-b", 512, "-ub", 512, "-t", self._threads, "-tb", self._threads, "--no-ui"),
        ]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=REPLY_S, trust_env=False) as client:
                server = Server(client)
                server.wait_ready(process)
                yield server
        finally:
            process.terminate()
            process.wait()


class Server:
    """A running llama-server. Its methods may be called from many threads."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the model is loaded."""
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if self._client.get("/health").status_code == 200:
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("llama-server did not start")
            time.sleep(0.005)

    def complete(self, prompt: str, tokens: int) -> float:
        """Continue a text greedily by exactly `tokens`; return the seconds until the first of them."""
        return self._first("/completion", {"prompt": prompt, "n_predict": tokens})

    def chat(self, system: str, text: str, tokens: int) -> float:
        """Answer a message; return the seconds until the first token."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        return self._first("/v1/chat/completions", {"messages": messages, "max_tokens": tokens})

    def _first(self, path: str, body: dict[str, object]) -> float:
        options = {"stream": True, "ignore_eos": True, "temperature": 0, "cache_prompt": True}
        began = time.perf_counter()
        first = None
        with self._client.stream("POST", path, json={**body, **options}) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if first is None and line.startswith("data:") and '"content":"' in line:
                    first = time.perf_counter() - began
        if first is None:
            raise RuntimeError("llama-server gave no token")
        return first


def build() -> Path:
    """Return the folder with the programs, building them the first time."""
    folder = ROOT / ".build" / f"llama.cpp-{_released()}"
    programs = folder / "build" / "bin"
    if all((programs / name).exists() for name in PROGRAMS):
        return programs
    print(f"Building {' and '.join(PROGRAMS)} in {folder}; this takes some minutes.", file=sys.stderr)
    if not (folder / "CMakeLists.txt").exists():
        _unpack(folder)
    log = folder / "build.log"
    with log.open("w") as output:
        for command in (
            ["cmake", "-S", str(folder), "-B", str(folder / "build"), *BUILD_OPTIONS],
            ["cmake", "--build", str(folder / "build"), "-j", str(os.cpu_count() or 1), "--target", *PROGRAMS],
        ):
            if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode:
                raise SystemExit(f"llama.cpp could not be built: see {log}")
    return programs


def _released() -> str:
    """Return the version of the llama-cpp-python that the installed one was built from, without the patches."""
    return version("llama-cpp-python").partition("+")[0]


def _unpack(folder: Path) -> None:
    """Lay the vendored source of the installed llama-cpp-python, as released, into `folder`."""
    name = f"llama-cpp-python=={_released()}"
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "llama-cpp-python", "--dest", scratch, name]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (source,) = Path(scratch).glob("*/vendor/llama.cpp")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        shutil.move(source, folder)
