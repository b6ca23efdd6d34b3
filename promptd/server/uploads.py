"""Guests that admins upload: validated, compiled in a process of their own, kept on disk, and granted nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.exceptions import HTTPException

from promptd.config import NAME_PATTERN, GuestSettings, UploadSettings
from promptd.errors import Busy, InvalidArgument, InvalidEncoding, NotFound, TooLarge
from promptd.server.errors import NameTaken
from promptd.wasm.guest import Guest
from promptd.wasm.guest_file import MAGIC
from promptd.wasm.host import Host
from promptd.wasm.trial import compile_apart

UPLOAD_S = 600.0
"""What the body of one upload may take to arrive."""

UPLOADS_AT_ONCE = 4
"""Most uploads that arrive, or wait to be compiled: one is at a time."""

_SUFFIX = ".wasm"
_UNFINISHED = ".upload-"
_STALE_S = 3600.0
"""An upload that is older has no process that still works on it."""

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return where uploaded guests are kept: `promptd/guests` in $XDG_STATE_HOME or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "promptd" / "guests"


class Uploads:
    """The uploaded guests. They stay until they are deleted, also when the daemon is started anew."""

    def __init__(self, host: Host, settings: UploadSettings) -> None:
        """Take up again what was uploaded before, as far as its names are free."""
        self._host = host
        self._settings = settings
        self._folder = settings.folder or default_folder()
        self._names: set[str] = set()
        self._arriving: set[str] = set()
        self._compiling = asyncio.Semaphore(1)
        self._restore()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def path(self, name: str) -> Path:
        """Return the file of an uploaded guest."""
        return self._folder / f"{name}{_SUFFIX}"

    async def receive(self, name: str, body: AsyncIterator[bytes]) -> Guest:
        """Take in a guest; unless all of it succeeds nothing is left of it.

        Raises InvalidArgument for a name no guest can have, NameTaken, Busy, InvalidEncoding for what is no WebAssembly
        binary, TooLarge beyond the limits of the settings, UnsupportedOperation when it asks for what promptd does not
        offer, and starlette's HTTPException 408 when it does not arrive in time.
        """
        with self._reserved(name), self._unfinished() as path:
            try:
                async with asyncio.timeout(UPLOAD_S):
                    await self._write(path, body)
            except TimeoutError:
                raise HTTPException(408, f"the upload took longer than {UPLOAD_S:g} s") from None
            except OSError as error:
                raise self._unwritable(error) from error
            async with self._compiling:
                limits = (self._settings.compile_time, self._settings.compile_memory)
                await asyncio.to_thread(compile_apart, path, name, *limits)
            path.replace(self.path(name))
            self._add(name)
            try:
                return await asyncio.to_thread(self._host.guest, name)
            except BaseException:
                self.remove(name)
                raise

    def remove(self, name: str) -> None:
        """Forget an uploaded guest; its instances that run go on. Raises NotFound."""
        if name not in self._names:
            raise NotFound(f"no guest {name[:80]!r} was uploaded")
        self._names.discard(name)
        self._host.remove_guest(name)
        self.path(name).unlink(missing_ok=True)

    def _restore(self) -> None:
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                name = path.name.removesuffix(_SUFFIX)
                if path.name.startswith(_UNFINISHED):
                    if time.time() - path.stat().st_mtime > _STALE_S:
                        path.unlink()
                elif path.suffix == _SUFFIX and re.fullmatch(NAME_PATTERN, name):
                    if name in self._host.guest_names():
                        _log.warning("the uploaded guest %s is not served: the settings name another one so", path)
                    else:
                        self._add(name)

    def _add(self, name: str) -> None:
        self._host.add_guest(name, GuestSettings(file=self.path(name), own_model=0))
        self._names.add(name)

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidArgument(
                f"{name[:80]!r} cannot be a guest's name: letters, digits, '.', '_' and '-' only, at most 80"
            )
        if name in self._host.guest_names() or name in self._arriving:
            raise NameTaken(name)
        if len(self._names) + len(self._arriving) >= self._settings.max_guests:
            raise TooLarge(f"{self._settings.max_guests} guests are the limit of uploads.max-guests; delete one first")
        if len(self._arriving) >= UPLOADS_AT_ONCE:
            raise Busy(f"{UPLOADS_AT_ONCE} guests are being uploaded already")
        self._arriving.add(name)
        try:
            yield
        finally:
            self._arriving.discard(name)

    @contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """Make an empty file for the block, beside those that are whole."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)
        except OSError as error:
            raise self._unwritable(error) from error
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> Busy:
        _log.error("uploads cannot be written to %s: %s", self._folder, error)
        return Busy(f"the upload cannot be kept: {error.strerror}")

    async def _write(self, path: Path, body: AsyncIterator[bytes]) -> None:
        """Write what arrives, and refuse at once what cannot become a guest."""
        head, size = b"", 0
        with path.open("wb") as file:
            async for part in body:
                size += len(part)
                if size > self._settings.max_size:
                    raise TooLarge(f"the upload is larger than uploads.max-size, {self._settings.max_size} bytes")
                if len(head) < len(MAGIC):
                    head += part[: len(MAGIC)]
                    if not MAGIC.startswith(head[: len(MAGIC)]):
                        raise InvalidEncoding("the upload is no WebAssembly binary, which begins with 00 61 73 6d")
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
