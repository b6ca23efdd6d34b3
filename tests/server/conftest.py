"""One daemon for all tests of the HTTP surface: the echo graph, the real model, and guests of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exact import EXACT
from serving import Served, serving
from wat_guests import HANDLER, LINES

from promptd.config import GraphSettings, GuestSettings, Settings


@pytest.fixture(scope="session")
def guest_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the files of the guests made from text."""
    folder = tmp_path_factory.mktemp("guests")
    files = {}
    for name, text in (("handler", HANDLER), ("lines", LINES)):
        files[name] = folder / f"{name}.wat"
        files[name].write_text(text)
    return files


@pytest.fixture(scope="session")
def served(smollm2: Path, guest_files: dict[str, Path], built_guest: Callable[[str], Path]) -> Iterator[Served]:
    """Return a daemon that serves graphs `echo` and `chat` (greedy), and guests."""
    built = {"terminal": built_guest("terminal"), "persona": built_guest("persona")}
    settings = Settings(
        engine=EXACT,
        graphs={
            "echo": GraphSettings(model="echo"),
            "chat": GraphSettings(
                model=f"file:{smollm2}", temperature=0, max_tokens=30, system="You are a helpful assistant."
            ),
        },
        guests={
            **{name: GuestSettings(file=file) for name, file in guest_files.items()},
            **{name: GuestSettings(file=file, graphs=("chat",)) for name, file in built.items()},
            "ungranted": GuestSettings(file=built["terminal"]),
        },
    )
    with serving(settings) as running:
        yield running
