"""Where the shared Hugging Face cache keeps the files of a repository: pure paths, as huggingface_hub lays them out.

`models--USER--REPO/` holds `blobs/DIGEST`, `snapshots/COMMIT/FILE` as symbolic links to blobs, and `refs/REVISION`
with a commit in it (huggingface_hub, docs/source/en/guides/manage-cache.md). Files placed this way are found by every
tool that uses the cache.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from promptd.errors import InvalidArgument
from promptd.graphs.blob import disk_error
from promptd.graphs.digest import Digest
from promptd.graphs.reference import check_hub_file, is_commit


class HubCache:
    """The folder of one repository inside the cache `root`."""

    def __init__(self, root: Path, repo: str) -> None:
        folder = "--".join(("models", *repo.split("/")))
        self._repo = root / folder
        self._locks = root / ".locks" / folder

    def blob(self, digest: Digest) -> Path:
        """Return where the file with `digest` is, or would be."""
        return self._repo / "blobs" / digest.hex

    def lock(self, digest: Digest) -> Path:
        """Return the lock file that huggingface_hub takes too while it writes that blob."""
        return self._locks / f"{digest.hex}.lock"

    def pointer(self, commit: str, file: str) -> Path:
        """Return where `file` of `commit` is, or would be; raises InvalidArgument for names that lead elsewhere."""
        if not is_commit(commit):
            raise InvalidArgument(f"{commit[:80]!r} is not a commit")
        return self._repo / "snapshots" / commit / check_hub_file(file)

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that `revision`, a validated branch, tag or commit, was when it was last looked up."""
        if is_commit(revision):
            return revision
        try:
            commit = (self._repo / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if is_commit(commit) else None

    def files(self, commit: str) -> list[str]:
        """Return the GGUF files of `commit` that are there."""
        snapshot = self._repo / "snapshots" / commit
        return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf") if path.is_file())

    def digest_of(self, commit: str, file: str) -> Digest | None:
        """Return the digest that the blob behind a pointer is named by, if there is one."""
        pointer = self.pointer(commit, file)
        try:
            return Digest(pointer.readlink().name) if pointer.is_file() else None
        except (OSError, InvalidArgument):
            return None

    def link(self, digest: Digest, commit: str, file: str, revision: str) -> Path:
        """Point `file` of `commit` at the blob, remember what `revision` is, and return the path to use."""
        blob, pointer = self.blob(digest), self.pointer(commit, file)
        try:
            pointer.parent.mkdir(parents=True, exist_ok=True)
            _replace_link(pointer, Path(os.path.relpath(blob, pointer.parent)))
            if revision != commit:
                reference = self._repo / "refs" / revision
                reference.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(reference, commit)
        except OSError as error:
            raise disk_error(error, pointer) from error
        return pointer


def write_atomically(path: Path, text: str) -> None:
    """Write a small file such that readers see the old text or the new one."""
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _replace_link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    temporary.symlink_to(target)
    temporary.replace(link)
