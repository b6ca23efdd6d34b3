"""Rows about decoding: many guests at once against llama-batched-bench, and beside guests that burn the CPU."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial

import wasmtime

from benchmarks.guests import SETTLE_S, Guests, close, guests, say, together
from benchmarks.rows import Bench, Measured, Row

PROMPT_TOKENS = 16
REPLY_TOKENS = 128
"""As many as llama-batched-bench makes when nobody says how many."""
OPENING = "Once upon a time, in a small village by the sea, there lived an old"


def decode(count: int) -> Row:
    """Return the row for so many guests."""
    alone = count == 1
    return Row(
        f"decode-{count}",
        f"aggregate decode, {count} guests" if not alone else "decode, one guest",
        f"llama-batched-bench S_TG at B={count}",
        0.97 if alone else 0.95,
        "higher",
        partial(_decode, count),
        slow=count == 32,
    )


def _decode(count: int, bench: Bench) -> Measured:
    tokens = REPLY_TOKENS // 2 if bench.quick and count > 1 else REPLY_TOKENS
    ours: list[float] = []
    theirs: list[float] = []
    with guests(bench, max_tokens=tokens) as host:
        pairs = 3 * bench.pairs if count == 1 else 2 * bench.pairs - 1  # they vary by a twentieth
        for pair in range(pairs):
            for which in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
                time.sleep(SETTLE_S)
                if which is ours:
                    ours.append(guest_rate(host, count, tokens, pair))
                else:
                    prompt = PROMPT_TOKENS + tokens
                    theirs.append(bench.upstream.decode_rate(count, prompt=prompt, tokens=tokens))
        widths = host.stats().batch_widths
    return Measured(ours, theirs, "tokens/s", {"steps_at_full_width": widths.get(count, 0)})


def guest_rate(host: Guests, count: int, tokens: int, pair: int) -> float:
    """Return the tokens a second of the second turn of so many guests, whose prompt is next to nothing."""
    sessions = host.open(count, begin=pair * count)
    together([partial(say, session, OPENING) for session in sessions])
    before = host.stats().generated_tokens
    seconds, _ = together([partial(say, session, " and") for session in sessions])
    generated = host.stats().generated_tokens - before
    close(sessions)
    if generated != count * tokens:
        raise RuntimeError(f"{count} replies had {generated} tokens together, not {tokens} each")
    return generated / seconds


@contextlib.contextmanager
def burning(threads: int) -> Iterator[None]:
    """Let wasm loop on so many threads until the block ends, as guests would without promptd."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    engine = wasmtime.Engine(config)
    module = wasmtime.Module(engine, '(module (func (export "burn") (loop (br 0))))')

    def burn() -> None:
        store = wasmtime.Store(engine)
        store.set_epoch_deadline(1)
        instance = wasmtime.Instance(store, module, [])
        loop = instance.exports(store)["burn"]
        assert isinstance(loop, wasmtime.Func)
        with contextlib.suppress(wasmtime.Trap):
            loop(store)

    running = [threading.Thread(target=burn) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for _ in range(2):
            engine.increment_epoch()
        for thread in running:
            thread.join()


def _burn(bench: Bench) -> Measured:
    count, tokens = 4, 16 if bench.quick else 32  # llama-server may make 5 tokens/s here
    ours, theirs = [], []
    with guests(bench, max_tokens=tokens) as host, bench.upstream.server(slots=count, context=count * 512) as server:
        asked = [partial(server.complete, f"{OPENING} {number}", tokens) for number in range(count)]
        together(asked)  # prefills, as the guests' first turn does
        for pair in range(bench.pairs):
            with host.burning(2):
                ours.append(guest_rate(host, count, tokens, pair))
            with burning(2):
                theirs.append(count * tokens / together(asked)[0])
        counters = {"thread_changes": float(host.stats().thread_changes), "threads": float(host.stats().threads)}
    return Measured(ours, theirs, "tokens/s", counters)


ROWS = [
    *(decode(count) for count in (1, 8, 16, 32)),
    Row("burn", "decode of 4 guests beside 2 that burn CPU", "llama-server under the same burn", 2.0, "higher", _burn),
]
