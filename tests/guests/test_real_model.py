"""Every guest language talks to a real model, and gets the same answers from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from promptd.chat import Message
from promptd.config import GraphSettings, GuestSettings, Settings
from promptd.wasm.host import Host
from promptd.wasm.stdio import Stdio

TURNS = ["What is the capital of France?", "And of Japan?"]
GUESTS = ["chat-c", "chat-js", "chat-py", "hello", "persona", "terminal"]


@pytest.fixture(scope="module")
def host(smollm2: Path, built_guest: Callable[[str], Path]) -> Iterator[Host]:
    """A host of all guests, with one greedy model."""
    # The system prompt makes answers that are certain: near a tie, llama.cpp's rounding, and with it the greedy reply,
    # depends on what is in the cache already.
    system = "You are a helpful assistant."
    graph = GraphSettings(model=f"file:{smollm2}", temperature=0, max_tokens=16, system=system)
    guests = {name: GuestSettings(file=built_guest(name), graphs=("chat",)) for name in GUESTS}
    with closing(Host(Settings(graphs={"chat": graph}, guests=guests))) as host:
        yield host


def chat(host: Host, guest: str) -> list[str]:
    """Return what the guest prints when the turns are its input."""
    out = bytearray()
    stdio = Stdio("".join(f"{turn}\n" for turn in TURNS).encode(), out.extend)
    with host.open_session(guest, stdio=stdio, identity="test") as session:
        assert session.run() == 0
    return out.decode().splitlines()


def answers(host: Host, *turns: str) -> list[str]:
    """Return what the model itself answers."""
    conversation = host.graph("chat").prompt_context("test")
    with closing(conversation):
        return [conversation.send([Message("user", turn)]).result().text for turn in turns]


@pytest.mark.parametrize("guest", ["chat-c", "chat-js", "chat-py", "terminal"])
def test_a_chat_of_two_turns_prints_what_the_model_answers(guest: str, host: Host) -> None:
    assert chat(host, guest) == "\n".join(answers(host, *TURNS)).splitlines()


def test_hello_prints_what_the_model_answers_to_its_question(host: Host) -> None:
    assert chat(host, "hello") == answers(host, "Are dogs real?")[0].splitlines()


def test_the_persona_answers_in_streamed_pieces(host: Host) -> None:
    pieces: list[str] = []
    with host.open_session("persona", stdio=Stdio(), identity="test") as session:
        reply = session.respond([Message("user", "Are dogs real?")], pieces.append)
    assert reply == "".join(pieces)
    assert len(pieces) > 1
    assert reply != answers(host, "Are dogs real?")[0]
