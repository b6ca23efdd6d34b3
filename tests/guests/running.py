"""Runs a command guest and keeps what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Ran:
    """How a command guest ended, and what it printed."""

    code: int
    out: str
    err: str


class RunGuest(Protocol):
    """Runs a component to its end; what it prints is appended to `written` as it comes."""

    def __call__(
        self,
        component: Path,
        *args: str,
        stdin: str | bytes = b"",
        env: Mapping[str, str] = {},
        written: list[bytes] | None = None,
    ) -> Ran: ...
