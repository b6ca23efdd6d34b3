"""Where promptd keeps its files, and how it writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def data_folder() -> Path:
    """Return the folder for what is meant to stay: $PROMPTD_HOME, or `promptd` in $XDG_DATA_HOME or ~/.local/share."""
    if home := os.environ.get("PROMPTD_HOME"):
        return Path(home).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "share") / "promptd"


def cache_folder() -> Path:
    """Return the folder for what can be made again.

    It is $PROMPTD_CACHE_HOME, or `promptd` in $XDG_CACHE_HOME or ~/.cache.
    """
    if home := os.environ.get("PROMPTD_CACHE_HOME"):
        return Path(home)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "promptd"
    return Path.home() / ".cache" / "promptd"


def write_whole(path: Path, content: bytes | bytearray) -> None:
    """Write a file that only this user may read, whole or not at all. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
