"""The guest behind `promptd chat`: it streams, goes on after errors, and has commands for a person."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from counting_graph import CountingGraph
from running import RunGuest

from promptd.errors import RuntimeFailure

PERSON = {"PROMPTD_TTY": "1", "PROMPTD_MODEL": "smollm2"}
BANNER = "promptd chat · smollm2 · /help for commands\n"


@pytest.fixture
def terminal(built_guest: Callable[[str], Path]) -> Path:
    return built_guest("terminal")


def test_each_piece_of_a_reply_is_printed_before_the_next_is_made(
    terminal: Path, run_guest: RunGuest, graph: CountingGraph
) -> None:
    written: list[bytes] = []

    def wait_until_printed(said: str) -> None:
        give_up = time.monotonic() + 10
        while b"".join(written) != said.encode():
            if time.monotonic() > give_up:
                raise RuntimeFailure(f"{said!r} was made, but {written} printed")
            time.sleep(0.001)

    graph.between_pieces = wait_until_printed
    ran = run_guest(terminal, "one two three", written=written)
    assert (ran.code, ran.out, ran.err) == (0, "[1] one two three\n", "")


def test_a_person_gets_a_banner_and_a_prompt_to_type_at(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin="hello\n", env=PERSON)
    assert (ran.code, ran.out, ran.err) == (0, f"{BANNER}> [1] hello\n> \n", "")


def test_undo_takes_the_last_turn_back(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin="one\ntwo\n/undo\nthree\n/exit\nnever\n", env=PERSON)
    assert ran.out == f"{BANNER}> [1] one\n> [2] two\n> Forgotten.\n> [2] three\n> "
    assert ran.code == 0


def test_undo_without_a_turn_forgets_nothing(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin="/undo\nhello\n/exit\n", env=PERSON)
    assert (ran.code, ran.out, ran.err) == (0, f"{BANNER}> There is nothing to forget.\n> [1] hello\n> ", "")


def test_a_failed_turn_does_not_end_a_persons_chat(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin="fail\nhello\n/exit\n", env=PERSON)
    assert ran.err == "the model is out of order\n"
    assert (ran.code, ran.out) == (0, f"{BANNER}> > [1] hello\n> ")


def test_a_failed_turn_shows_in_the_exit_code_of_a_programs_chat(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin="fail\nhello\n")
    assert (ran.code, ran.out, ran.err) == (1, "[1] hello\n", "the model is out of order\n")


def test_help_lists_every_command_and_others_are_refused(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin="/help\n/dance\n/exit\n", env=PERSON)
    for command in ("/undo", "/help", "/exit"):
        assert f"\n{command} " in ran.out.replace("> ", "\n", 1)
    assert "There is no command /dance; /help lists them.\n" in ran.out


def test_commands_are_plain_text_to_a_programs_chat(terminal: Path, run_guest: RunGuest) -> None:
    assert run_guest(terminal, stdin="/undo\n").out == "[1] /undo\n"


def test_a_question_that_is_not_utf_8_is_refused_and_the_next_is_answered(terminal: Path, run_guest: RunGuest) -> None:
    ran = run_guest(terminal, stdin=b"caf\xe9\ncaf\xc3\xa9\n")
    assert (ran.out, ran.err) == ("[1] café\n", "The question is not UTF-8 text.\n")
