"""What a source of model files is: somewhere the bytes may already be, or can be fetched from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from promptd.graphs.digest import Digest
from promptd.graphs.progress import Progress


@dataclass(frozen=True, slots=True)
class Delivery:
    """A whole file whose digest has just been verified, and where it came from."""

    path: Path
    digest: Digest
    size: int
    origin: str
    """Its provenance in one word: `hf.co/USER/REPO/FILE@COMMIT` or `pypi:NAME==VERSION/MEMBER`."""


class Source(Protocol):
    """One place a file can come from."""

    @property
    def pinned(self) -> bool:
        """Whether the digest is known beforehand, so that a file found locally needs no question to anybody."""

    def find(self, progress: Progress) -> Delivery | None:
        """Return the file if this machine has it, verified; opens no socket. A damaged one is removed."""

    def fetch(self, progress: Progress) -> Delivery:
        """Get the file, whole and verified; raises a PromptdError."""

    def __str__(self) -> str: ...
