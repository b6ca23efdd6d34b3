"""The chats in every language do the same: turns from arguments or stdin, replies on stdout, errors on stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running import RunGuest

CHATS = ["chat-c", "chat-js", "chat-py", "terminal"]


@pytest.fixture(scope="module", params=CHATS)
def chat(request: pytest.FixtureRequest, built_guest: Callable[[str], Path]) -> Path:
    return built_guest(request.param)


def test_the_words_of_the_command_line_are_one_turn(chat: Path, run_guest: RunGuest) -> None:
    ran = run_guest(chat, "Are", "dogs  real?", stdin="not read\n")
    assert (ran.code, ran.out, ran.err) == (0, "[1] Are dogs  real?\n", "")


def test_each_line_of_stdin_is_a_turn_of_one_conversation(chat: Path, run_guest: RunGuest) -> None:
    ran = run_guest(chat, stdin="one\ntwo words\r\n\nthe last, without an end")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "[1] one\n[2] two words\n[3] the last, without an end\n"


def test_no_input_is_no_turn(chat: Path, run_guest: RunGuest) -> None:
    ran = run_guest(chat)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_text_of_any_length_and_script_comes_through_whole(chat: Path, run_guest: RunGuest) -> None:
    turns = ["äöü ßẞ 漢字 🐕", "é" * 30_000, "x" * 60_000]
    ran = run_guest(chat, stdin="".join(f"{turn}\n" for turn in turns))
    assert ran.out == "".join(f"[{number}] {turn}\n" for number, turn in enumerate(turns, 1))


def test_the_environment_names_the_graph(chat: Path, run_guest: RunGuest) -> None:
    ran = run_guest(chat, "hello", env={"GRAPH": "secret"})
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "secret" in ran.err


def test_a_turn_that_fails_is_one_sentence_on_stderr_and_exit_code_1(chat: Path, run_guest: RunGuest) -> None:
    ran = run_guest(chat, "fail")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "the model is out of order" in ran.err


def test_hello_asks_one_question_and_prints_the_answer(built_guest: Callable[[str], Path], run_guest: RunGuest) -> None:
    ran = run_guest(built_guest("hello"))
    assert (ran.code, ran.out, ran.err) == (0, "[1] Are dogs real?\n", "")
