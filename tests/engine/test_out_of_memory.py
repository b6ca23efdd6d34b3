"""Workers whose address space the kernel limits: what does not fit fails in a sentence, and nothing else is lost."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from exact import EXACT, GREEDY

from promptd.chat import Completion, Message
from promptd.config import EngineSettings
from promptd.engine import process
from promptd.engine.client import Engine
from promptd.engine.options import Sampling
from promptd.errors import RuntimeFailure, TooLarge

Ask = Callable[..., Completion]
MEBIBYTE = 1024**2
SMALL = EXACT.model_copy(update={"kv_tokens": 2048})
LARGE = EXACT.model_copy(update={"kv_tokens": 16_384})
"""Its KV cache is 360 MB."""
ENDLESS = Sampling(temperature=0, max_tokens=1500, ignore_end=True)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a running process")


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Engine]:
    with Engine(smollm2, SMALL) as engine:
        yield engine


def worker_of(engine: Engine) -> int:
    pid = engine.stats().worker_pid
    assert pid is not None
    return pid


def mapped(pid: int) -> int:
    """Return the bytes of a process's address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def limited(size: int) -> str:
    """Return the program of a worker that cannot map more than `size` bytes."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({size},) * 2); {process._BOOT}"


@contextmanager
def no_more_memory(pid: int) -> Iterator[None]:
    """Let a process map nothing more; it may have died at the end."""
    unlimited = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (mapped(pid), unlimited[1]))
    yield
    if Path(f"/proc/{pid}").exists():
        resource.prlimit(pid, resource.RLIMIT_AS, unlimited)


def test_a_kv_cache_for_which_there_is_no_memory_is_refused_and_had_once_there_is(
    engine: Engine, smollm2: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = mapped(worker_of(engine)) + 64 * MEBIBYTE
    with monkeypatch.context() as patch:
        patch.setattr(process, "_BOOT", limited(limit))
        with pytest.raises(RuntimeFailure, match=r"a KV cache of 16384 tokens \(360 MiB\).* set a smaller kv-tokens"):
            Engine(smollm2, LARGE)
    assert ask(engine.conversation("guest"), "Hello.").text, "the others go on"
    with Engine(smollm2, LARGE) as large:
        assert ask(large.conversation("guest"), "Hello.").text


def test_a_worker_that_cannot_even_begin_is_one_sentence(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_BOOT", limited(64 * MEBIBYTE))
    with pytest.raises(RuntimeFailure, match=re.escape(smollm2.name)) as caught:
        Engine(smollm2, SMALL)
    assert "\n" not in str(caught.value)


def test_what_needs_more_memory_than_there_is_fails_and_replies_go_on(engine: Engine) -> None:
    pid = worker_of(engine)
    text = engine.tokenize(b"A text.")
    reply = engine.conversation("guest").send([Message("user", "Tell a story.")], ENDLESS)
    next(iter(reply))
    with no_more_memory(pid), pytest.raises(RuntimeFailure, match="cannot make the embedding: insufficient memory"):
        engine.embed(text)
    assert len(engine.embed(text)) > 0
    assert worker_of(engine) == pid
    assert len(reply.text) > 0
    reply.cancel()
    assert reply.result().usage.generated > 0


def test_a_conversation_that_cannot_be_saved_for_want_of_memory_costs_a_prefill(smollm2: Path, ask: Ask) -> None:
    brief = Sampling(temperature=0, max_tokens=2)
    with Engine(smollm2, EngineSettings(kv_tokens=2048, max_sequences=1)) as engine:
        long, other = engine.conversation("guest", template="none"), engine.conversation("guest", template="none")
        first = ask(long, "word " * 600, brief).usage
        with no_more_memory(worker_of(engine)):
            ask(other, "a b c", brief)
        assert engine.stats().evictions == 1
        assert (engine.stats().saved, engine.stats().spill_memory) == (0, 0)
        assert ask(long, "more", brief).usage.prompt > first.prompt
        assert engine.stats().restored == 0


def test_a_worker_that_dies_for_want_of_memory_fails_what_it_was_doing_and_conversations_go_on(
    engine: Engine, ask: Ask
) -> None:
    pid = worker_of(engine)
    conversation = engine.conversation("guest")
    first = ask(conversation, "Hello.")
    reply = conversation.send([Message("user", "Tell a story.")], ENDLESS)
    next(iter(reply))
    with no_more_memory(pid), pytest.raises(TooLarge):  # what the next worker says, to whom it is sent again
        engine.conversation("other").send([Message("user", "a" * 30_000_000)], GREEDY).result()
    with pytest.raises(RuntimeFailure, match=r"\(out of memory\); the conversation is as it was before"):
        reply.result()
    assert ask(conversation, "Bye.").usage.prompt > first.usage.prompt
    assert worker_of(engine) != pid
