"""Rows about the KV cache: what is shared, saved, forked and not computed again."""

from __future__ import annotations

import random
import time
from functools import partial
from statistics import median

from benchmarks.guests import SETTLE_S, close, guests, say, together, words
from benchmarks.rows import Bench, Measured, Row
from promptd.config import EngineSettings

CONVERSATION_WORDS = 480


def _system_prompt(bench: Bench) -> Measured:
    """16 guests ask at once under a system prompt that nothing has computed before."""
    count = 16
    ours, theirs = [], []
    with bench.upstream.server(slots=count, context=count * 1024) as server:
        for pair in range(bench.pairs):
            system = words(300, seed=pair)
            with guests(bench, template="auto", system=system, share_system=True, max_tokens=1) as host:
                sessions = host.open(count)
                asked = [partial(say, session, f"Hello, I am {number}") for number, session in enumerate(sessions)]
                ours.append(_median(together(asked)[1]))
                close(sessions)
            time.sleep(SETTLE_S)
            asked = [partial(server.chat, system, f"Hello, I am {number}", 1) for number in range(count)]
            theirs.append(_median(together(asked)[1]))
    return Measured(ours, theirs, "s")


def _median(seconds: list[object]) -> float:
    return median(float(str(each)) for each in seconds)


def _second_turn(bench: Bench) -> Measured:
    """Compare the prompt tokens that a second turn decoded with those that were new in it."""
    with guests(bench, template="auto", max_tokens=16) as host:
        (session,) = host.open(1)
        say(session, "What is the capital of France?")
        first, before = session.usage, host.stats()
        say(session, "And of Japan?")
        second, after = session.usage - first, host.stats()
        close([session])
    # The last token of a reply was sampled, and has not been decoded yet.
    new = second.prompt - (first.prompt + first.generated - 1)
    decoded = after.prompt_tokens - before.prompt_tokens
    return Measured([decoded], [new], "tokens", {"prompt": second.prompt, "cached": second.cached})


def wake(live: int, *, on_request: bool = False) -> Row:
    """Return the row for so many conversations."""
    return Row(
        f"wake-{live}",
        f"{live} live conversations of ~500 tokens on cells for 16, the others in memory (--quick: 32 on 2):"
        " first token p50 when woken",
        "prefilling them again",
        0.03,
        "lower",
        partial(_wake, live),
        on_request=on_request,
    )


CONVERSATION_BYTES = 16 * 1024**2
"""Memory for each conversation of the rows about waking: SmolLM2's cells of some 500 tokens take 12 MB."""


def _wake(live: int, bench: Bench) -> Measured:
    """Wake conversations that were spilled, in random order, and prefill others of the same length."""
    live, resident = (32, 2) if bench.quick else (live, 16)
    woken = min(live, 24)
    engine = EngineSettings(kv_tokens=resident * 640, max_sequences=64, spill_memory=live * CONVERSATION_BYTES)
    with guests(bench, engine=engine, max_tokens=1) as host:
        sessions = host.open(live)
        texts = [words(CONVERSATION_WORDS, seed=number) for number in range(live)]
        for begin in range(0, live, resident):
            batch = list(zip(sessions, texts, strict=True))[begin : begin + resident]
            together([partial(say, session, text) for session, text in batch])
        before = host.stats()
        order = random.Random(7).sample(range(live), woken)
        ours = [say(sessions[number], " and") for number in order]
        after = host.stats()
        strangers = host.open(4, begin=live)
        theirs = [say(stranger, texts[number] + " and") for number, stranger in enumerate(strangers)]
        close(sessions + strangers)
    counters = {
        "restored": after.restored - before.restored,
        "prompt_tokens_decoded": after.prompt_tokens - before.prompt_tokens,
        "spill_memory_mb": after.spill_memory / 1e6,
        "live": live,
    }
    return Measured([median(ours)], [median(theirs)], "s", counters)


def _fork(bench: Bench) -> Measured:
    """Let 8 forks of a long conversation answer, and compare what they decoded with what each was newly told."""
    text = "What is the story about?"
    with guests(bench, template="auto", max_tokens=8) as host:
        (session,) = host.open(1)
        say(session, "!stream " + words(600 if bench.quick else 1900, seed=3))
        before = host.stats()
        say(session, f"!fork 8 {text}")
        after = host.stats()
        new = host.graph.count_tokens(text) + host.graph.count_tokens("\nuser\n\nassistant\n") + 4
        close([session])
    decoded = after.prompt_tokens - before.prompt_tokens
    counters = {"cached": after.cached_tokens - before.cached_tokens, "context": before.prompt_tokens}
    return Measured([decoded], [8 * new], "tokens", counters)


ROWS = [
    Row(
        "system-prompt",
        "first token p50, 16 guests at once with the same 300-word system prompt",
        "llama-server -np 16",
        0.25,
        "lower",
        _system_prompt,
    ),
    Row("second-turn", "second turn: prompt tokens decoded", "the new ones", 1.0, "lower", _second_turn),
    wake(64),
    wake(256, on_request=True),
    Row(
        "fork",
        "fork of a 2,000-token conversation, 8 ways: prompt tokens decoded until all answer",
        "8 times the new message",
        1.0,
        "lower",
        _fork,
    ),
]
