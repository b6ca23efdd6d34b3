"""scripts/build-guests: builds what has changed, says what is missing, and makes the components in the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMITTED = {
    name: (ROOT / "guests" / name).joinpath(component).read_bytes()
    for name, component in {
        "chat-c": "chat.wasm",
        "hello": "hello.wasm",
        "persona": "persona.wasm",
        "terminal": "chat.wasm",
    }.items()
}
"""The components that are kept in the repository, as they were before any test could build them again."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the build of the guests without a package of npm reads, none of them built."""
    for folder in ("scripts", "wit", *(f"guests/{name}" for name in ("include", *COMMITTED))):
        ignored = shutil.ignore_patterns("*.wasm", ".build")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def build(checkout: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    command = [sys.executable, str(checkout / "scripts/build-guests"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_components_in_the_repository_are_what_their_sources_build_to_byte_for_byte(
    built_guest: Callable[[str], Path],
) -> None:
    for name, committed in COMMITTED.items():
        assert built_guest(name).read_bytes() == committed, f"{name}: run scripts/build-guests and commit the component"


def test_the_built_in_guest_is_small_enough_to_ship(built_guest: Callable[[str], Path]) -> None:
    assert built_guest("terminal").stat().st_size < 100_000


def test_a_guest_is_built_again_only_when_a_source_a_shared_source_or_the_component_changed(checkout: Path) -> None:
    assert "built guests/hello/hello.wasm" in build(checkout, "hello").stdout
    assert build(checkout, "hello").stdout == "hello: up to date\n"
    assert "built" in build(checkout, "--force", "hello").stdout
    for changed in ("guests/hello/hello.wat", "guests/hello/hello.wasm", "guests/include/component.h"):
        with (checkout / changed).open("ab") as file:
            file.write(b"\n")
        assert "built" in build(checkout, "hello").stdout, changed
        assert build(checkout, "hello").stdout == "hello: up to date\n"


def test_a_change_of_the_interfaces_rebuilds_the_guests_that_link_to_them(checkout: Path) -> None:
    build(checkout, "persona")
    with (checkout / "wit/promptd-prompt.wit").open("a") as file:
        file.write("\n// changed\n")
    assert "built" in build(checkout, "persona").stdout


def test_a_build_that_fails_says_why_and_is_tried_again(checkout: Path) -> None:
    program = checkout / "guests/hello/hello.wat"
    program.write_text("(component (nonsense))")
    for _ in range(2):
        failed = build(checkout, "hello")
        assert failed.returncode == 1
        assert "nonsense" in failed.stderr
        assert "hello: the build failed" in failed.stderr


def test_a_failed_build_does_not_keep_the_other_guests_from_being_built(checkout: Path) -> None:
    (checkout / "guests/hello/hello.wat").write_text("nonsense")
    done = build(checkout, "hello", "persona")
    assert done.returncode == 1
    assert "built guests/persona/persona.wasm" in done.stdout


def test_a_missing_tool_is_named_with_the_command_that_gets_it(checkout: Path) -> None:
    guest = checkout / "guests/in-javascript"
    guest.mkdir()
    (guest / "build").write_text("#!/bin/sh\nnpm install\n")
    (checkout / "tools").mkdir()
    done = build(checkout, "in-javascript", path=str(checkout / "tools"))
    assert done.returncode == 3
    assert done.stderr == "in-javascript: npm is missing; get it with: apt-get install npm\n"


def test_a_guest_that_does_not_exist_is_answered_with_those_that_do(checkout: Path) -> None:
    done = build(checkout, "tetris")
    assert done.returncode == 2
    assert "there is no guest tetris; there are chat-c, hello, persona, terminal" in done.stderr
