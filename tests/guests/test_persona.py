"""The handler in C: a system message goes before the client's, and the reply is handed on as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from counting_graph import CountingGraph

from promptd.chat import Message
from promptd.errors import PromptdError
from promptd.wasm.grants import Grant
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session


@pytest.fixture
def persona(built_guest: Callable[[str], Path], runtime: Runtime, graph: CountingGraph) -> Iterator[Session]:
    guest = runtime.load(built_guest("persona"))
    with Session(runtime, guest, Grant(graphs=frozenset({"chat"})), lambda name: graph) as session:
        yield session


def test_the_persona_goes_before_the_messages_of_the_client(persona: Session, graph: CountingGraph) -> None:
    messages = [Message("user", "Hello"), Message("assistant", "Ahoy"), Message("user", "Are dogs real?")]
    persona.respond(messages)
    ((system, *others),) = graph.asked
    assert system.role == "system"
    assert "pirate" in system.content
    assert others == messages


def test_the_reply_is_handed_on_piece_by_piece_and_returned_whole(persona: Session) -> None:
    pieces: list[str] = []
    reply = persona.respond([Message("user", "Are dogs real?")], pieces.append)
    assert reply == "[1] Are dogs real?"
    assert pieces == ["[1]", " Are", " dogs", " real?"]


def test_every_call_is_a_conversation_of_its_own(persona: Session) -> None:
    for _ in range(100):
        assert persona.respond([Message("user", "hello")]) == "[1] hello"


def test_no_messages_and_empty_messages_are_passed_on(persona: Session, graph: CountingGraph) -> None:
    persona.respond([])
    persona.respond([Message("user", "")])
    assert [len(messages) for messages in graph.asked] == [1, 2]


def test_an_error_of_the_model_is_the_handlers_error_and_the_next_call_is_answered(persona: Session) -> None:
    with pytest.raises(PromptdError, match="the model is out of order"):
        persona.respond([Message("user", "fail")])
    assert persona.respond([Message("user", "hello")]) == "[1] hello"


def test_a_graph_that_is_not_granted_is_the_handlers_error(
    built_guest: Callable[[str], Path], runtime: Runtime, graph: CountingGraph
) -> None:
    guest = runtime.load(built_guest("persona"))
    with (
        Session(runtime, guest, Grant(), lambda name: graph) as session,
        pytest.raises(PromptdError, match="no graph is named"),
    ):
        session.respond([Message("user", "hello")])
