"""Rows about waiting: a long prompt among running guests, a warm start, and the cost of a host call."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import quantiles

from benchmarks.decode import OPENING
from benchmarks.guests import SETTLE_S, Marks, close, guests, say, together, words
from benchmarks.rows import Bench, Measured, Row
from promptd.wasm.session import Session

ROOT = Path(__file__).resolve().parent.parent.parent
WARM_TOKENS = 8192
"""The size of both KV caches: to clear their memory is a good part of a start."""
HOST_CALLS = 2000
HOST_CALL_TARGET_S = 100e-6
QUIET_S = 4.0
"""How long the running guests are watched before the long prompt comes."""


def _long_prompt(bench: Bench) -> Measured:
    """Compare the gaps between the tokens of 8 guests while a long prompt is prefilled with those before it came."""
    ours, theirs = [], []
    tokens, prompt_words = (300, 1000) if bench.quick else (1200, 3600)
    with guests(bench, max_tokens=tokens) as host:
        for pair in range(min(bench.pairs, 2)):
            *running, late = host.open(9, begin=9 * pair)
            marks = [Marks() for _ in running]
            long = Marks()

            def interrupt(late: Session = late, long: Marks = long, pair: int = pair) -> None:
                time.sleep(QUIET_S)
                long.mark()
                say(late, f"!stream {words(prompt_words, seed=90 + pair)}", long.mark)

            streams = [
                partial(say, session, f"!stream {OPENING}", each.mark)
                for session, each in zip(running, marks, strict=True)
            ]
            together([*streams, interrupt])
            close([*running, late])
            came, answered = long.times[:2]
            ours.append(_p99(marks, came, answered))
            theirs.append(_p99(marks, came - QUIET_S + 1, came))
    return Measured(ours, theirs, "s")


def _p99(marks: list[Marks], begin: float, end: float) -> float:
    return quantiles([gap for each in marks for gap in each.gaps(begin, end)], n=100)[-1]


def _warm_start(bench: Bench) -> Measured:
    """Compare the time from the start of `promptd run` to its first token with that of llama-server."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "promptd.toml"
        settings.write_text(f"[engine]\nkv-tokens = {WARM_TOKENS}\n")
        return _first_tokens(bench, settings)


def _first_tokens(bench: Bench, settings: Path) -> Measured:
    command = [
        str(Path(sys.executable).with_name("promptd")),
        *(
            "run",
            "--config",
            str(settings),
            "--graph",
            f"chat=file:{bench.model}",
            "-o",
            "chat.max-tokens=8",
            "-o",
            "chat.temperature=0",
        ),
        *(str(ROOT / "guests/terminal/chat.wasm"), "Are dogs real?"),
    ]
    ours, theirs = [], []
    for _ in range(1 + bench.pairs):  # the first fills the caches of both
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            ours.append(time.perf_counter() - began)
            process.stdout.read()
        if process.returncode:
            raise RuntimeError(f"promptd run ended with {process.returncode}")
        time.sleep(SETTLE_S)
        began = time.perf_counter()
        with bench.upstream.server(slots=1, context=WARM_TOKENS) as server:
            server.chat("You are a helpful assistant.", "Are dogs real?", 8)
            theirs.append(time.perf_counter() - began)
        time.sleep(SETTLE_S)
    return Measured(ours[1:], theirs[1:], "s")


def _host_call(bench: Bench) -> Measured:
    """Time computes on the echo graph, which takes no time of its own."""
    with guests(bench) as host:
        (session,) = host.open(1)
        say(session, "!echo 10")
        seconds = [say(session, f"!echo {HOST_CALLS}") / HOST_CALLS for _ in range(bench.pairs)]
        close([session])
    return Measured(seconds, [HOST_CALL_TARGET_S] * len(seconds), "s")


ROWS = [
    Row(
        "long-prompt",
        "a 4,000-token prompt arrives among 8 running guests: p99 between their tokens",
        "before it came",
        2.0,
        "lower",
        _long_prompt,
    ),
    Row(
        "warm-start",
        "promptd run, start to first token, both with a KV cache of 8,192 tokens",
        "llama-server, start to first token",
        1.0,
        "lower",
        _warm_start,
    ),
    Row("host-call", "one compute beyond the engine's own time", "100 µs", 1.0, "lower", _host_call),
]
