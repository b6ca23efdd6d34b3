"""Finds the files that come with promptd but are not Python: the catalog, the WIT packages, the built-in guest.

A checkout has them at its root; a wheel carries them in `promptd/shipped/` (see `force-include` in pyproject.toml).
"""

from __future__ import annotations

from pathlib import Path

from promptd.errors import NotFound

_PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Return the path of a shipped file, e.g. `models/catalog.toml`; NotFound when it is missing."""
    for root in (_PACKAGE / "shipped", _PACKAGE.parent):
        if (path := root / name).exists():
            return path
    raise NotFound(f"this installation of promptd lacks {name}; install promptd again")
