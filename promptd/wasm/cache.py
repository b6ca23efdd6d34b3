"""Compiled guests on disk, so that a guest is compiled once and not at every start.

wasmtime runs what it deserialises as machine code, so the cache trusts only files of this user in folders only this
user can write, and only files whose bytes still have the digest in their name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import sys
from importlib.metadata import version
from pathlib import Path

from promptd.folders import cache_folder, write_whole

_log = logging.getLogger("promptd.cache")

CACHE_BYTES_LIMIT = 1 << 30
"""The least recently used files go when all together are larger."""

SUFFIX = ".cwasm"


class CompileCache:
    """Files `KEY-DIGEST.cwasm` in one folder: what they were compiled from and for, and what they contain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path | None = None) -> CompileCache | None:
        """Return the cache in `folder`, made where missing; None, with a warning in the log, where it is not safe."""
        folder = folder or cache_folder()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            guests = folder / "guests"
            guests.mkdir(mode=0o700, exist_ok=True)
            for each in (folder, guests):
                if reason := _unsafe(each):
                    _log.warning("guests are compiled without the cache: %s %s", each, reason)
                    return None
        except OSError as error:
            _log.warning("guests are compiled without the cache: %s: %s", folder, error.strerror)
            return None
        return cls(guests)

    def key(self, content: bytes, settings: str) -> str:
        """Return the key of a guest's bytes, for this wasmtime, these engine settings and this platform."""
        parts = (
            hashlib.sha256(content).hexdigest(),
            f"wasmtime={version('wasmtime')}",
            settings,
            sys.platform,
            platform.machine(),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def find(self, key: str) -> Path | None:
        """Return the file of `key` if it is sound; one that is not is removed."""
        for path in self.folder.glob(f"{key}-*{SUFFIX}"):
            try:
                if _digest(path) == path.stem.partition("-")[2]:
                    os.utime(path)
                    return path
                _log.warning("removed the damaged cache file %s", path)
                path.unlink()
            except OSError as error:
                _log.warning("cannot use the cache file %s: %s", path, error.strerror)
        return None

    def store(self, key: str, compiled: bytes | bytearray) -> None:
        """Keep `compiled` under `key`; a failure is logged and not raised: without it promptd is only slower."""
        path = self.folder / f"{key}-{hashlib.sha256(compiled).hexdigest()}{SUFFIX}"
        try:
            write_whole(path, compiled)
            self._prune()
        except OSError as error:
            _log.warning("cannot write the cache file %s: %s", path, error.strerror)

    def remove(self, path: Path) -> None:
        """Forget a file that wasmtime did not take."""
        path.unlink(missing_ok=True)

    def _prune(self) -> None:
        files = sorted(
            ((path, path.stat()) for path in self.folder.glob(f"*{SUFFIX}")), key=lambda each: each[1].st_mtime
        )
        total = sum(info.st_size for _, info in files)
        for path, info in files[:-1]:
            if total <= CACHE_BYTES_LIMIT:
                return
            path.unlink(missing_ok=True)
            total -= info.st_size


def _unsafe(folder: Path) -> str | None:
    """Say why someone else could put files into `folder`, or None."""
    info = folder.lstat()
    if stat.S_ISLNK(info.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(info.st_mode):
        return "is not a folder"
    if info.st_uid != os.geteuid():
        return "belongs to another user"
    if info.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(info.st_mode):o}); chmod 700 mends it"
    return None


def _digest(path: Path) -> str:
    """Return the SHA-256 of a regular file of this user; of anything else, nothing that could match."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            return ""
        return hashlib.file_digest(file, "sha256").hexdigest()
