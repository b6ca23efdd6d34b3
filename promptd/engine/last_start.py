"""What commands loaded last, so that the next run of one can begin to load it before it knows what it is asked for.

A wrong memory does no harm: whoever loads a model compares, and starts another worker where something else is asked
for. What is remembered has passed the checks of GGUF files, and counts only while the files are the same.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from promptd.engine.messages import Start
from promptd.folders import cache_folder, write_whole

FILE = "last-starts"
MAX_ENTRIES = 64
"""The commands that were run last are remembered."""
MAX_BYTES = 1 << 20

_UNUSABLE = (OSError, UnicodeError, RuntimeError)
"""What a file raises, text that is not UTF-8 (msgspec 0.22.0 lets it through, and folders may be named so), and
`Path.home` where there is none.
"""

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, array_like=True):
    command: list[str]
    files: list[list[int]]
    """What identifies the model's file, and the draft's, as they were."""
    start: Start


def recall(command: Sequence[str]) -> Start | None:
    """Return what `command` loaded last, if it can be loaded without another look."""
    for entry in _read():
        if entry.command == [*command]:
            with suppress(OSError):
                return entry.start if entry.files == _files(entry.start) else None
    return None


def remember(command: Sequence[str], start: Start) -> None:
    """Note that `command` has loaded a model so. A failure is logged and not raised: the next run is only slower."""
    try:
        path = cache_folder() / FILE
        latest = _Entry([*command], _files(start), start)
        others = [entry for entry in _read() if entry.command != latest.command]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, msgspec.msgpack.encode([latest, *others[: MAX_ENTRIES - 1]]))
    except _UNUSABLE as error:
        _log.debug("cannot remember what was loaded: %s", error)


def _read() -> list[_Entry]:
    """Return the entries, none where the file is not this user's alone, or cannot be read."""
    try:
        descriptor = os.open(cache_folder() / FILE, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not keep us
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
                return []
            if status.st_size > MAX_BYTES:
                return []
            return msgspec.msgpack.decode(file.read(), type=list[_Entry])
    except (*_UNUSABLE, msgspec.DecodeError):
        return []


def _files(start: Start) -> list[list[int]]:
    """Raises OSError where one is missing."""
    found = [Path(path).stat() for path in (start.path, start.draft) if path is not None]
    return [[each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns] for each in found]
