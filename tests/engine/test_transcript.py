from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from promptd.chat import Message
from promptd.engine.transcript import Transcript, Turn, common_prefix, spoken


def tokens(*values: int) -> bytes:
    return array("i", values).tobytes()


def turn(text: str, kept: int, *values: int) -> Turn:
    return Turn((Message("user", text),), text.upper(), kept, tokens(*values), True)


def three_turns() -> Transcript:
    transcript = Transcript(system=(Message("system", "s"),))
    for new in (turn("a", 0, 1, 2), turn("b", 2, 3, 4), turn("c", 3, 9)):
        transcript.commit(new, 0)
    return transcript


def test_the_history_follows_what_each_turn_kept() -> None:
    assert list(three_turns().history()) == [1, 2, 3, 9]


def test_messages_are_the_whole_conversation() -> None:
    assert [message.content for message in three_turns().messages()] == ["s", "a", "A", "b", "B", "c", "C"]


def test_rewinding_brings_back_the_tokens_of_that_time() -> None:
    transcript = three_turns()
    transcript.rewind(1)
    assert list(transcript.history()) == [1, 2, 3, 4]
    transcript.rewind(0)
    assert len(transcript.turns) == 2


def test_dropping_turns_keeps_the_token_history_and_system_messages() -> None:
    transcript = Transcript()
    transcript.commit(Turn((Message("system", "rules"), Message("user", "a")), "A", 0, tokens(1, 2), True), 0)
    transcript.commit(turn("b", 2, 3), 0)
    before = transcript.history()
    transcript.drop(1)
    assert transcript.history() == before
    assert [message.content for message in transcript.messages()] == ["rules", "b", "B"]


def test_a_fork_goes_its_own_way() -> None:
    transcript = three_turns()
    fork = transcript.fork()
    fork.commit(turn("d", 4, 5), 0)
    fork.drop(1)
    assert list(transcript.history()) == [1, 2, 3, 9]
    assert len(transcript.turns) == 3


def test_replies_are_spoken_by_the_assistant() -> None:
    assert [message.role for message in spoken(three_turns().turns)] == ["user", "assistant"] * 3


@given(
    st.lists(st.integers(0, 3), max_size=2000), st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(4, 9))
)
def test_common_prefix_is_the_longest(shared: list[int], first: list[int], second: list[int]) -> None:
    length = common_prefix(array("i", shared + first), array("i", shared + second))
    assert length == len(shared) if second or not first else length >= len(shared)
    assert (shared + first)[:length] == (shared + second)[:length]
