"""The guests of docs/guests.md are what they are said to be: built with the commands there, they answer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from counting_graph import CountingGraph
from running import RunGuest

from promptd.chat import Message
from promptd.wasm.grants import Grant
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session

ROOT = Path(__file__).parent.parent.parent
PREAMBLE, *_SECTIONS = re.split(r"^## ", (ROOT / "docs/guests.md").read_text(), flags=re.MULTILINE)
SECTIONS = {title: text for title, _, text in (section.partition("\n") for section in _SECTIONS)}
TOOLCHAIN_OF = {"Python": "chat-py", "JavaScript": "chat-js", "C": "chat-c"}
BLOCK = re.compile(r"^```(\S+)(?: (mine/\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the page's commands read in a clone."""
    ignored = shutil.ignore_patterns("node_modules", ".build", "*.wasm")
    shutil.copytree(ROOT / "wit", tmp_path / "wit")
    shutil.copytree(ROOT / "guests", tmp_path / "guests", symlinks=True, ignore=ignored)
    return tmp_path


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    """A runtime that keeps nothing on disk: the components are built anew each time."""
    runtime = Runtime()
    yield runtime
    runtime.close()


def follow(text: str, checkout: Path) -> None:
    """Write the files of `text` and run its commands, except those that install Python packages."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, file, content in BLOCK.findall(text):
        if file:
            (checkout / file).write_text(content)
        elif language == "sh":
            commands = re.sub(r"^pip .*\n", "", content, flags=re.MULTILINE)
            environment = {**os.environ, "PATH": tools}
            done = subprocess.run(
                ["sh", "-ec", commands], cwd=checkout, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"


def blocks(text: str, language: str) -> str:
    """Return the blocks of `text` in one language."""
    return "".join(match[0] + "\n" for match in BLOCK.finditer(text) if match[1] == language)


@pytest.mark.parametrize("language", ["Python", "JavaScript", "C"])
def test_the_ten_lines_of_each_language_are_a_chat(
    language: str, checkout: Path, built_guest: Callable[[str], Path], run_guest: RunGuest
) -> None:
    built_guest(TOOLCHAIN_OF[language])  # skips where a tool is missing
    follow(blocks(PREAMBLE, "sh") + blocks(PREAMBLE, "wit"), checkout)
    follow(SECTIONS[language], checkout)
    ran = run_guest(checkout / "mine/guest.wasm", stdin="one\ntwo\n")
    assert (ran.code, ran.out, ran.err) == (0, "[1] one\n[2] two\n", "")


def test_the_component_in_text_is_built_with_one_command(
    checkout: Path, built_guest: Callable[[str], Path], run_guest: RunGuest
) -> None:
    built_guest("hello")
    follow(blocks(PREAMBLE, "sh") + SECTIONS["WebAssembly text"], checkout)
    assert run_guest(checkout / "mine/guest.wasm").out == "[1] Are dogs real?\n"


@pytest.mark.parametrize(("language", "block"), [("Python", "python"), ("JavaScript", "js")])
def test_the_handlers_put_a_persona_before_the_messages_and_stream(
    language: str,
    block: str,
    checkout: Path,
    built_guest: Callable[[str], Path],
    runtime: Runtime,
    graph: CountingGraph,
) -> None:
    built_guest(TOOLCHAIN_OF[language])
    section = SECTIONS["A handler for `promptd serve`"]
    follow(blocks(PREAMBLE, "sh") + blocks(section, "wit") + blocks(section, block), checkout)
    follow(blocks(SECTIONS[language], "sh"), checkout)
    pieces: list[str] = []
    guest = runtime.load(checkout / "mine/guest.wasm")
    with Session(runtime, guest, Grant(graphs=frozenset({"chat"})), lambda name: graph) as session:
        reply = session.respond([Message("user", "Are dogs real?")], pieces.append)
    assert reply == "".join(pieces) == "[1] Are dogs real?"
    assert len(pieces) > 1
    ((system, _),) = graph.asked
    assert system == Message("system", "You are a pirate.")
