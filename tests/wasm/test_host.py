"""The host, whole: real guests on the real model, sharing one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from exact import exact_alone

from promptd.backends.ggml import GgmlGraph
from promptd.chat import Message
from promptd.config import GraphSettings, GuestSettings, Settings
from promptd.engine.client import Engine
from promptd.engine.options import Sampling
from promptd.errors import NotFound
from promptd.wasm.host import Host
from promptd.wasm.stdio import Stdin, Stdio

QUESTIONS = (
    "What is the capital of France?",
    "Name one colour.",
    "What is 2 + 2?",
    "What do bees make?",
    "Who wrote Hamlet?",
    "What is ice made of?",
    "Name a big animal.",
    "What is the capital of Japan?",
)


@pytest.fixture(scope="module")
def settings(smollm2: Path, built_guest: Callable[[str], Path]) -> Settings:
    graph = GraphSettings(model=f"file:{smollm2}", system="You are a helpful assistant.", temperature=0, max_tokens=24)
    guests = {
        name: GuestSettings(file=built_guest(name), graphs=("chat",)) for name in ("chat-c", "chat-py", "terminal")
    }
    stranger = GuestSettings(file=built_guest("chat-c"))
    return Settings(engine=exact_alone(), graphs={"chat": graph}, guests={**guests, "stranger": stranger})


@pytest.fixture(scope="module")
def host(settings: Settings) -> Iterator[Host]:
    host = Host(settings)
    yield host
    host.close()


@pytest.fixture
def graph(host: Host) -> GgmlGraph:
    graph = host.graph("chat")
    assert isinstance(graph, GgmlGraph)
    return graph


def ask(host: Host, guest: str, *questions: str) -> str:
    """Run a guest over lines of input and return what it printed."""
    out: list[bytes] = []
    stdin = "".join(question + "\n" for question in questions).encode()
    with host.open_session(guest, stdio=Stdio(stdin, out.append, out.append), identity=guest) as session:
        session.run()
    return b"".join(out).decode()


def test_the_second_turn_of_a_guest_decodes_only_its_new_tokens(host: Host, graph: GgmlGraph):
    first, second = QUESTIONS[:2]
    before = graph.stats()
    ask(host, "chat-c", first)
    one_turn = graph.stats().prompt_tokens - before.prompt_tokens
    middle = graph.stats()
    ask(host, "chat-c", first, second)
    both = graph.stats().prompt_tokens - middle.prompt_tokens
    cached = graph.stats().cached_tokens - middle.cached_tokens
    # <|im_end|>\n<|im_start|>user\n QUESTION <|im_end|>\n<|im_start|>assistant\n
    markup = graph.count_tokens("\nuser\n") + graph.count_tokens("\nassistant\n") + 4
    assert both - one_turn <= graph.count_tokens(second) + markup
    assert cached >= one_turn


def test_eight_guests_at_once_share_one_worker_and_one_model_and_answer_as_they_do_alone(host: Host, graph: GgmlGraph):
    alone = [ask(host, "chat-c", question) for question in QUESTIONS]
    before = graph.stats()
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        together = list(pool.map(lambda question: ask(host, "chat-c", question), QUESTIONS))
    after = graph.stats()
    assert after.worker_pid == before.worker_pid
    assert after.worker_starts == 1
    assert max(after.batch_widths) >= 2
    # Cells that were freed are filled in another order, which attention adds in, so a greedy reply may take another
    # turn at a near tie; most do not.
    assert sum(one == other for one, other in zip(alone, together, strict=True)) >= len(QUESTIONS) // 2
    assert all(together)


@pytest.mark.parametrize("guest", ["chat-c", "chat-py"])
def test_greedy_output_through_a_guest_is_that_of_the_engine_called_directly(
    settings: Settings, smollm2: Path, guest: str
):
    alone = exact_alone()
    engine = Engine(smollm2, alone)
    conversation = engine.conversation("test", system="You are a helpful assistant.")
    sampling = Sampling(temperature=0, max_tokens=24)
    direct = [conversation.send([Message("user", question)], sampling).result().text for question in QUESTIONS[:3]]
    engine.close()
    with closing(Host(settings.model_copy(update={"engine": alone}))) as fresh:  # its cells fill in the same order
        assert ask(fresh, guest, *QUESTIONS[:3]) == "".join(text + "\n" for text in direct)


def test_a_guest_that_was_granted_nothing_gets_no_graph(host: Host, caplog: pytest.LogCaptureFixture):
    assert "no graph is named 'chat'" in ask(host, "stranger", "Hello")
    assert any("chat" in record.message and record.name == "promptd.grants" for record in caplog.records)


def test_an_unknown_guest_is_not_found(host: Host):
    with pytest.raises(NotFound, match="no guest is called 'nobody'"):
        host.open_session("nobody", stdio=Stdio(), identity="test")


def test_a_killed_worker_fails_the_turn_and_the_next_turn_of_the_same_conversation_answers(
    host: Host, graph: GgmlGraph
):
    out: list[bytes] = []
    pid: int | None = None

    def write(data: bytes) -> None:
        nonlocal pid
        out.append(data)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            pid = None

    stdio = Stdio(Stdin.LINES, write, write)
    with host.open_session("terminal", stdio=stdio, identity="terminal") as session:
        session.turn()
        assert session.turn(QUESTIONS[0]) is None
        first = b"".join(out)
        pid = graph.stats().worker_pid
        session.turn("Tell me a very long story about the sea.")
        assert pid is None, "its first piece was printed"
        failed = b"".join(out)[len(first) :]
        session.turn(QUESTIONS[7])
    assert b"killed by SIGKILL" in failed
    assert b"Tokyo" in b"".join(out)[len(first) + len(failed) :]
    assert graph.stats().worker_starts == 2
