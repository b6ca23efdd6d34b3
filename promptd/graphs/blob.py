"""Files named by their digest: how bytes become one, and how one is checked.

Bytes are hashed while they are written, into a partial file beside the destination; the destination appears only when
the digest is right. A partial file that an interrupted pull left is hashed again before it is continued.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from promptd.errors import InvalidEncoding, PromptdError, RuntimeFailure, TooLarge
from promptd.graphs.digest import Digest
from promptd.graphs.progress import Progress
from promptd.graphs.sizes import human_size

CHUNK = 1 << 20


def hash_file(path: Path, progress: Progress, task: str) -> Digest:
    """Return the digest of the file at `path`; raises RuntimeFailure when it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            progress.start(task, os.fstat(file.fileno()).st_size)
            hasher = hashlib.sha256()
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
                progress.advance(len(chunk))
    except OSError as error:
        raise disk_error(error, path) from error
    return Digest(hasher.hexdigest())


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise TooLarge when the file system of `folder`, which need not exist yet, has less than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise TooLarge(f"{what} needs {human_size(needed)}, but only {human_size(free)} are free in {existing}")


def disk_error(error: OSError, path: Path) -> PromptdError:
    """Return the promptd error for a failed file operation on `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TooLarge(f"the disk is full: {path} cannot be written; free some space and pull again to resume")
    return RuntimeFailure(f"cannot use {path}: {error.strerror or error}")


@contextmanager
def exclusive(lock: Path, progress: Progress, what: str) -> Iterator[None]:
    """Hold the lock file `lock` against other threads and processes, saying so where that means waiting."""
    from filelock import FileLock, Timeout  # 7 ms of imports that a command which pulls nothing need not wait for

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, mode=0o664, thread_local=False)
        try:
            held.acquire(timeout=0)
        except Timeout:
            progress.note(f"another pull is at work on {what}; waiting for it")
            held.acquire(poll_interval=0.1)
    except NotImplementedError as error:
        raise RuntimeFailure(f"the file system of {lock} has no locks, so pulls cannot be kept apart there") from error
    except OSError as error:
        raise disk_error(error, lock) from error
    try:
        yield
    finally:
        held.release()


class PartialFile:
    """A file on its way: looks like a binary file open for appending, hashes what is written, and refuses more than
    `size` bytes.

    Leaving the `with` block keeps the partial file for a later attempt to resume, unless `finish` made it the whole
    file or `discard` removed it. Whoever opens one holds the lock of `destination`.
    """

    def __init__(self, destination: Path, digest: Digest, size: int, name: str, progress: Progress) -> None:
        self._destination = destination
        self._partial = destination.with_name(destination.name + ".incomplete")
        self._digest = digest
        self._size = size
        self._name = name
        self._progress = progress
        self._hasher = hashlib.sha256()
        self.held = 0
        """Bytes there are, all of them hashed."""

    def __enter__(self) -> PartialFile:
        try:
            self._destination.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
            present = os.fstat(descriptor).st_size
            if present > self._size:
                self._file.truncate(0)
                present = 0
            self._hash_prefix(present)
        except OSError as error:
            raise disk_error(error, self._partial) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.held:
            self._partial.unlink(missing_ok=True)

    def write(self, data: bytes) -> int:
        """Append `data`; raises InvalidEncoding when that would be more than the file has, TooLarge when the disk is
        full.
        """
        if self.held + len(data) > self._size:
            self.discard()
            raise InvalidEncoding(
                f"{self._name} has more than its {human_size(self._size)}, so it was removed; pull it again"
            )
        view = memoryview(data)
        try:
            while view:
                written = self._file.write(view)
                self._hasher.update(view[:written])
                self.held += written
                view = view[written:]
        except OSError as error:
            raise disk_error(error, self._partial) from error
        self._progress.advance(len(data))
        return len(data)

    def tell(self) -> int:
        """Return where the next byte goes."""
        return self.held

    def seek(self, position: int) -> int:
        """Throw away what is held beyond `position`; a server that ignores ranges starts over like this."""
        if position < self.held:
            self._progress.advance(position - self.held)
            self._file.truncate(position)
            self._hash_prefix(position)
        return self.held

    def truncate(self) -> int:
        """End the file at the position, which it always does."""
        return self.held

    def finish(self) -> None:
        """Make the partial file the whole one. Raises InvalidEncoding, and removes it, when its bytes are wrong."""
        if self.held < self._size:
            raise RuntimeFailure(
                f"{self._name} broke off at {human_size(self.held)} of {human_size(self._size)}; pull again to resume"
            )
        found = Digest(self._hasher.hexdigest())
        if found != self._digest:
            self.discard()
            raise InvalidEncoding(
                f"{self._name} has the wrong content and was removed; pull it again"
                f" (its digest is {found} instead of {self._digest})"
            )
        try:
            os.fsync(self._file.fileno())
            self._partial.replace(self._destination)
            sync_folder(self._destination.parent)
        except OSError as error:
            raise disk_error(error, self._destination) from error

    def discard(self) -> None:
        """Remove what is held."""
        self._partial.unlink(missing_ok=True)
        self._file.truncate(0)
        self._hash_prefix(0)

    def _hash_prefix(self, length: int) -> None:
        """Hash the first `length` bytes anew and stand behind them."""
        self._hasher = hashlib.sha256()
        self._file.seek(0)
        left = length
        while left and (chunk := self._file.read(min(CHUNK, left))):
            self._hasher.update(chunk)
            left -= len(chunk)
        self.held = length - left


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
