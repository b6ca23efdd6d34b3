"""`promptd run`: grants, limits, exit codes and mistakes, with real guests and the real model."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import PROMPTD, assert_one_sentence, promptd
from endless import ENDLESS

EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'


def module(body: str, imports: str = "") -> str:
    """Return a core command module in WebAssembly text."""
    return f'(module {imports} (memory (export "memory") 1) (func (export "_start") {body}))'


@pytest.fixture
def chat_guest(built_guest: Callable[[str], Path]) -> Path:
    return built_guest("chat-c")


@pytest.fixture
def wat(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "guest.wat"
        path.write_text(text)
        return path

    return write


def test_a_guest_answers_an_argument(chat_guest: Path):
    done = promptd("run", "--graph", "chat=echo", chat_guest, "hello", "there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello there\n", "")


def test_a_guest_answers_lines_of_standard_input_until_it_ends(chat_guest: Path):
    done = promptd("run", "--graph", "chat=echo", chat_guest, stdin="one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


@pytest.mark.parametrize("language", ["chat-c", "chat-py", "chat-js"])
def test_guests_in_every_language_give_the_same_greedy_answer_of_the_real_model(
    built_guest: Callable[[str], Path], smollm2: Path, language: str
):
    graph = f"chat=file:{smollm2}"
    options = ("-o", "chat.temperature=0", "-o", "chat.max-tokens=16", "-o", "chat.system=You are a helpful assistant.")
    done = promptd("run", "--graph", graph, *options, built_guest(language), "What is the capital of France?")
    assert (done.returncode, done.stdout) == (0, "The capital of France is Paris.\n")
    assert done.stderr == "" or "compiling chat.wasm" in done.stderr  # the first time, and only a large guest


def test_a_graph_that_was_not_granted_is_not_found_and_the_operator_reads_which_grant_is_missing(chat_guest: Path):
    done = promptd("run", chat_guest, "hello")
    assert done.returncode == 1
    operators, guests = done.stderr.splitlines()
    assert operators.startswith("promptd: guest chat.wasm asked for graph 'chat', which it is not granted")
    assert guests == "no graph is named 'chat'"


def test_an_unknown_model_name_is_one_sentence_before_the_guest_runs(chat_guest: Path):
    done = promptd("run", "--offline", "--graph", "chat=nonesuch", chat_guest, "hello")
    assert_one_sentence(done, "nonesuch")
    assert done.stdout == ""


def test_settings_come_from_the_promptd_toml_of_the_folder(chat_guest: Path, tmp_path: Path):
    (tmp_path / "promptd.toml").write_text('[graphs.chat]\nmodel = "echo"\n')
    assert promptd("run", chat_guest, "hello", cwd=tmp_path).stdout == "hello\n"


def test_a_guest_of_the_settings_runs_by_name_with_its_grants(chat_guest: Path, tmp_path: Path):
    config = tmp_path / "settings.toml"
    config.write_text(
        f'[graphs.chat]\nmodel = "echo"\n[graphs.other]\nmodel = "echo"\n'
        f'[guests.talker]\nfile = "{chat_guest}"\ngraphs = ["other"]\nenv = {{ GRAPH = "other" }}\n'
    )
    assert promptd("run", "--config", config, "talker", "hello").stdout == "hello\n"
    denied = promptd("run", "--config", config, "--env", "GRAPH=chat", "talker", "hello")
    assert denied.returncode == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--graph", "chat"], "NAME=REF"),
        (["--graph", "../x=echo"], "'../x'"),
        (["--graph", "chat=../../etc/passwd"], "../../etc/passwd"),
        (["--graph", "chat=echo", "-o", "chat.temperature=hot"], "temperature"),
        (["--graph", "chat=echo", "-o", "chat.nonesuch=1"], "nonesuch"),
        (["--graph", "chat=echo", "-o", "temperature=0"], "GRAPH.KEY=VALUE"),
        (["-o", "chat.temperature=0"], "--graph chat=REF"),
        (["--memory", "much"], "much"),
        (["--memory", "256"], "64KiB"),
        (["--deadline", "soon"], "soon"),
        (["--dir", "nowhere-at-all::/data"], "nowhere-at-all"),
        (["--env", "NAME"], "K=V"),
        (["--config", "nonesuch.toml"], "nonesuch.toml"),
    ],
)
def test_a_wrong_option_is_one_sentence(chat_guest: Path, options: list[str], said: str):
    assert_one_sentence(promptd("run", *options, chat_guest, "hello"), said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "guest.wasm"),
        (b"", "guest.wasm"),
        (b"#!/bin/sh\necho hello\n", "guest.wasm"),
        (b"\0asm\x01\0\0\0\x01\xff", "guest.wasm"),
        (b"\x7fELF" + bytes(60), "guest.wasm"),
    ],
)
def test_a_file_that_is_no_guest_is_one_sentence(tmp_path: Path, content: bytes | None, said: str):
    path = tmp_path / "guest.wasm"
    if content is not None:
        path.write_bytes(content)
    assert_one_sentence(promptd("run", path), said)


def test_a_truncated_guest_is_one_sentence(chat_guest: Path, tmp_path: Path):
    path = tmp_path / "cut.wasm"
    path.write_bytes(chat_guest.read_bytes()[:-100])
    assert_one_sentence(promptd("run", "--graph", "chat=echo", path), "cut.wasm")


def test_a_truncated_model_is_refused_before_it_is_loaded(chat_guest: Path, smollm2: Path, tmp_path: Path):
    path = tmp_path / "cut.gguf"
    with smollm2.open("rb") as file:
        path.write_bytes(file.read(10_000_000))
    done = promptd("run", "--graph", f"chat=file:{path}", chat_guest, "hello")
    assert done.returncode == 1
    assert "cut.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_text_file_named_gguf_is_said_to_be_none(chat_guest: Path, tmp_path: Path):
    path = tmp_path / "notes.gguf"
    path.write_text("Dear diary,\n" * 100)
    done = promptd("run", "--graph", f"chat=file:{path}", chat_guest, "hello")
    assert done.returncode == 1
    assert "notes.gguf" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [0, 3, 97])
def test_the_exit_code_is_the_guests_own(wat: Callable[[str], Path], code: int):
    assert promptd("run", wat(module(f"i32.const {code} call $exit", EXIT))).returncode == code


def test_a_trap_is_one_sentence_and_134(wat: Callable[[str], Path]):
    assert_one_sentence(promptd("run", wat(module("unreachable"))), "unreachable", code=134)


def test_a_guest_that_loops_is_stopped_at_its_deadline(wat: Callable[[str], Path]):
    done = promptd("run", "--deadline", "300ms", wat(module("(loop br 0)")))
    assert_one_sentence(done, "deadline", code=134)


def test_a_model_that_talks_too_long_is_stopped_at_the_deadline(chat_guest: Path, smollm2: Path):
    endless = [word for option in ENDLESS for word in ("-o", f"chat.{option}")]
    done = promptd(
        "run", "--deadline", "2s", "--graph", f"chat=file:{smollm2}", *endless,
        chat_guest, "Write an endless story about the sea, with very many chapters.",
    )  # fmt: skip
    assert_one_sentence(done, "deadline", code=134)


def test_a_guest_cannot_grow_beyond_its_memory(wat: Callable[[str], Path]):
    grow = "(if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then i32.const 9 call $exit))"
    guest = wat(module(grow, EXIT))
    assert promptd("run", "--memory", "2MiB", guest).returncode == 9
    assert promptd("run", "--memory", "64MiB", guest).returncode == 0


def test_a_guest_that_floods_is_stopped_at_its_output_limit(wat: Callable[[str], Path], tmp_path: Path):
    flood = """(memory.fill (i32.const 64) (i32.const 97) (i32.const 60000))
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
      (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) br 0)"""
    config = tmp_path / "settings.toml"
    config.write_text(f'[guests.flood]\nfile = "{wat(module(flood, WRITE))}"\noutput = "1MiB"\n')
    done = promptd("run", "--config", config, "flood")
    assert_one_sentence(done, "wrote more than its limit of 1048576 bytes", code=134)
    assert len(done.stdout) <= 1024**2


def test_nothing_of_the_environment_and_no_file_is_seen_unless_granted(wat: Callable[[str], Path]):
    sizes = '(import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))'
    prestat = '(import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))'
    count = wat(
        module("(drop (call $sizes (i32.const 0) (i32.const 4))) (call $exit (i32.load (i32.const 0)))", sizes + EXIT)
    )
    assert promptd("run", count).returncode == 0
    assert promptd("run", "--env", "A=1", "--env", "B=2", count).returncode == 2
    folder = wat(module("(call $exit (call $prestat (i32.const 3) (i32.const 0)))", prestat + EXIT))
    assert promptd("run", folder).returncode == 8  # EBADF: there is no first directory
    assert promptd("run", "--dir", f"{folder.parent}::/data", folder).returncode == 0


def test_control_characters_reach_a_file_but_not_a_terminal(chat_guest: Path):
    prompt = "plain \x1b[31mred\x1b]0;title\x07 \x9b2J\u202e end"
    arguments = [PROMPTD, "run", "--graph", "chat=echo", chat_guest, prompt]
    assert subprocess.run(arguments, capture_output=True, check=True).stdout.decode() == prompt + "\n"
    terminal, end = pty.openpty()
    process = subprocess.Popen(arguments, stdout=end, stderr=end, stdin=subprocess.DEVNULL)
    os.close(end)
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # EIO: the last writer has left
            break
        if not chunk:
            break
        seen += chunk
    os.close(terminal)
    assert process.wait() == 0
    text = seen.decode()
    assert "plain" in text
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)


def test_ctrl_c_ends_a_guest_that_computes(wat: Callable[[str], Path]):
    greeting = """(i32.store (i32.const 4) (i32.const 1))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (loop br 0)"""
    process = subprocess.Popen(
        [PROMPTD, "run", wat(module(greeting, WRITE))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.read(1), "the guest is running"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_words_that_are_not_utf_8_are_refused(chat_guest: Path):
    done = subprocess.run([PROMPTD, "run", chat_guest, b"\xff"], capture_output=True, text=True, check=False)
    assert_one_sentence(done, "not UTF-8")


def test_a_model_that_is_a_pipe_is_refused_and_not_waited_for(chat_guest: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "model.gguf")
    done = promptd("run", "--graph", f"chat=file:{tmp_path / 'model.gguf'}", chat_guest, "hello")
    assert_one_sentence(done, "model.gguf is not a file")


def test_a_very_long_deadline_is_no_deadline_in_practice(chat_guest: Path):
    done = promptd("run", "--deadline", "20000h", "--graph", "chat=echo", chat_guest, "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")


def test_options_after_the_guest_are_its_own_and_promptd_says_so(chat_guest: Path):
    done = promptd("run", "--graph", "chat=echo", chat_guest, "--env", "A=1")
    assert (done.returncode, done.stdout) == (0, "--env A=1\n")
    assert "--env is given to the guest" in done.stderr


def test_a_standard_input_that_is_closed_is_at_its_end_and_no_other_file(chat_guest: Path):
    closed = f'exec "{PROMPTD}" run --graph chat=echo "{chat_guest}" <&-'
    done = subprocess.run(["sh", "-c", closed], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", [("run", "--graph", "chat=echo", "GUEST", "hello"), ("list",)], ids=["run", "list"])
def test_output_that_cannot_be_written_is_one_sentence(chat_guest: Path, command: tuple[str, ...]):
    words = [str(chat_guest) if word == "GUEST" else word for word in command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([PROMPTD, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "promptd: cannot write to standard output: No space left on device\n")
    closed = shlex.join([str(PROMPTD), *words]) + " >&-"
    done = subprocess.run(["sh", "-c", closed], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
