"""The control socket: a file beside each daemon on which its own user, without a key, is its admin."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from promptd.errors import SecurityDenied


def control_path(port: int) -> Path:
    """Return where the daemon on `port` listens for `promptd ps`, `stop` and `logs`.

    Raises SecurityDenied where its folder is not this user's alone.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base) / "promptd" if base else Path(tempfile.gettempdir()) / f"promptd-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SecurityDenied(f"{folder} is not a folder of this user alone; remove it")
    return folder / f"{port}.sock"
