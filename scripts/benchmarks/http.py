"""The row about the daemon: guests' streams over HTTP against the engine called directly."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2

from benchmarks.decode import OPENING
from benchmarks.guests import SMOLLM2_ENDS, guests, together
from benchmarks.rows import Bench, Measured, Row
from promptd.chat import ChatOptions, Message

COUNT = 16
CONFIG = """\
[graphs.chat]
model = "file:{model}"
template = "none"
temperature = 0
max-tokens = {tokens}
logit-bias = {{ {biases} }}

[guests.bench]
file = "{guest}"
graphs = ["chat"]
"""


@contextlib.contextmanager
def _daemon(bench: Bench, tokens: int) -> Iterator[httpx2.Client]:
    """Run `promptd serve` until the block ends."""
    biases = ", ".join(f'"{token}" = {bias}' for token, bias in SMOLLM2_ENDS)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "promptd.toml"
        config.write_text(CONFIG.format(model=bench.model, tokens=tokens, biases=biases, guest=bench.guest))
        command = [str(Path(sys.executable).with_name("promptd")), "serve", "--port", "0", "--config", str(config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout is not None
                url = None
                while url is None and (line := process.stdout.readline()):
                    found = re.search(r"listening on (http://[\d.:]+)", line)
                    url = found and found[1]
                if url is None:
                    raise RuntimeError("promptd serve did not start")
                # A daemon whose log nobody reads stops at a full pipe.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                with httpx2.Client(base_url=url, timeout=600, trust_env=False) as client:
                    yield client
            finally:
                process.terminate()


def _stream(client: httpx2.Client, session: str, text: str) -> None:
    """Send a message to a session, and read the streamed reply to its end."""
    path = f"/v1/sessions/{session}/messages"
    with client.stream("POST", path, json={"content": text, "stream": True}) as response:
        response.raise_for_status()
        for _ in response.iter_lines():
            pass


def _generated(client: httpx2.Client) -> float:
    """Return the tokens that the daemon's engine has generated."""
    found = re.findall(r"^promptd_engine_generated_tokens_total\{.*\} (\S+)", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def _http(bench: Bench) -> Measured:
    tokens = 32 if bench.quick else 64
    ours, theirs = [], []
    with _daemon(bench, tokens) as client, guests(bench, max_tokens=tokens) as host:
        for pair in range(bench.pairs):
            opened = [client.post("/v1/sessions", json={"guest": "bench"}).raise_for_status() for _ in range(COUNT)]
            ids = [json.loads(each.text)["id"] for each in opened]
            together([partial(_stream, client, each, f"!stream {OPENING}") for each in ids])
            before = _generated(client)
            seconds, _ = together([partial(_stream, client, each, "!stream  and") for each in ids])
            ours.append((_generated(client) - before) / seconds)
            for each in ids:
                client.delete(f"/v1/sessions/{each}")

            contexts = [host.graph.prompt_context(f"direct-{pair}-{number}") for number in range(COUNT)]

            def turn(context: object, text: str) -> None:
                context.send([Message("user", text)], ChatOptions()).result()  # type: ignore[attr-defined]

            together([partial(turn, context, OPENING) for context in contexts])
            generated = host.stats().generated_tokens
            seconds, _ = together([partial(turn, context, " and") for context in contexts])
            theirs.append((host.stats().generated_tokens - generated) / seconds)
            for context in contexts:
                context.close()
    return Measured(ours, theirs, "tokens/s")


ROWS = [
    Row(
        "http",
        "16 guests in streaming sessions over HTTP, aggregate decode",
        "the engine called directly",
        0.9,
        "higher",
        _http,
    )
]
