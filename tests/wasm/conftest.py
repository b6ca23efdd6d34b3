"""Fixtures for guests: one runtime for all tests, and a host that loads and runs guests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_host import Host

from promptd.wasm.runtime import Runtime


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.close()


@pytest.fixture
def host(runtime: Runtime, tmp_path: Path) -> Iterator[Host]:
    host = Host(runtime, tmp_path)
    yield host
    host.close()
