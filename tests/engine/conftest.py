"""Fixtures of the engine's tests: one engine on SmolLM2 for all that can share it, its vocabulary, and tiny models
with odd properties.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exact import EXACT, GREEDY
from tiny_model import write_tiny_model

from promptd.chat import Completion, Message
from promptd.engine import llama
from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.options import Sampling


@pytest.fixture(scope="session")
def engine(smollm2: Path) -> Iterator[Engine]:
    with Engine(smollm2, EXACT) as engine:
        yield engine


@pytest.fixture(scope="session")
def model(smollm2: Path) -> llama.Model:
    """SmolLM2 in this process, for its vocabulary."""
    llama.start()
    return llama.Model(smollm2, gpu_layers=0)


@pytest.fixture(scope="session")
def vocabulary(model: llama.Model) -> llama.Vocabulary:
    return model.vocabulary


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a tiny model with given properties."""
    return lambda **properties: write_tiny_model(tmp_path / "tiny.gguf", **properties)


@pytest.fixture(scope="session")
def reference(smollm2: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that continues prompts greedily with a plain loop over llama.cpp in a process of its own."""

    def run(tokens: int, *prompts: str) -> list[dict[str, Any]]:
        script = Path(__file__).parent / "reference.py"
        done = subprocess.run(
            [sys.executable, script, str(smollm2), str(tokens), *prompts],
            capture_output=True,
            check=True,
            env={**os.environ, "GOMP_SPINCOUNT": "0"},
        )
        return json.loads(done.stdout)

    return run


@pytest.fixture
def ask() -> Callable[..., Completion]:
    """Return a function that makes one user turn, greedily unless told otherwise."""

    def ask(conversation: Conversation, text: str, sampling: Sampling = GREEDY) -> Completion:
        return conversation.send([Message("user", text)], sampling).result()

    return ask
