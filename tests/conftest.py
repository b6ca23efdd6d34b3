"""Fixtures that every test folder shares: the real model, and guests built from source, once for all runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from promptd.graphs.store import Store

signal.signal(signal.SIGINT, signal.default_int_handler)
"""In a shell's background it is ignored, also by every program that the tests start and interrupt."""
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""Under nohup it is ignored."""

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
"""Hypothesis judges no times: the machine may be busy with other things."""


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct Q4_1, which `scripts/test` has pulled with `promptd pull smollm2`."""
    return Store().resolve("smollm2").path


@pytest.fixture(scope="session")
def built_guest() -> Callable[[str], Path]:
    """Return a function that gives the component of `guests/NAME`, building it first where it is not up to date.

    Where a tool for that is missing the test is skipped, and the reason names the command to get it; in CI it fails.
    """
    root = Path(__file__).parent.parent
    tool_missing = 3

    def build(name: str) -> Path:
        done = subprocess.run(
            [sys.executable, root / "scripts/build-guests", name], capture_output=True, text=True, check=False
        )
        if done.returncode == tool_missing and os.environ.get("CI") != "true":
            pytest.skip(done.stderr.strip())
        if done.returncode != 0:
            pytest.fail(done.stderr)
        (component,) = (root / "guests" / name).glob("*.wasm")
        return component

    return build
