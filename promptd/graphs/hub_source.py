"""The hub as a source: finds the file a reference means, and has its bytes placed, verified, in the shared Hugging
Face cache.
"""

from __future__ import annotations

import re

from promptd.errors import (
    InvalidArgument,
    InvalidEncoding,
    NotFound,
    PromptdError,
    SecurityDenied,
    UnsupportedOperation,
)
from promptd.graphs.blob import PartialFile, check_disk, exclusive, hash_file
from promptd.graphs.digest import Digest
from promptd.graphs.hub_cache import HubCache
from promptd.graphs.hub_client import HubClient
from promptd.graphs.progress import Progress
from promptd.graphs.reference import check_hub_file
from promptd.graphs.sources import Delivery

DEFAULT_QUANT = "Q4_K_M"
"""What llama.cpp takes too when a repository is named without a quantisation."""
DEFAULT_REVISION = "main"

_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_NOT_A_MODEL = re.compile(r"(^|[-_./])(mmproj|imatrix)", re.IGNORECASE)


class HubSource:
    """A GGUF file of a hub repository, named by `file` or chosen by `quant`; `digest` and `size` are checked where
    they are known.
    """

    def __init__(
        self,
        client: HubClient,
        repo: str,
        *,
        file: str | None = None,
        quant: str | None = None,
        revision: str | None = None,
        digest: Digest | None = None,
        size: int | None = None,
    ) -> None:
        self._client = client
        self._repo = repo
        self._file = file
        self._quant = quant
        self._revision = revision or DEFAULT_REVISION
        self._digest = digest
        self._size = size

    def __str__(self) -> str:
        return f"hf.co/{self._repo}"

    @property
    def pinned(self) -> bool:
        return self._digest is not None

    def find(self, progress: Progress) -> Delivery | None:
        cache = HubCache(self._client.cache, self._repo)
        commit = cache.commit_of(self._revision)
        if commit is None:
            return None
        try:
            file = self._file or choose_file(str(self), cache.files(commit), self._quant)
        except PromptdError:
            return None
        digest = self._digest or cache.digest_of(commit, file)
        if digest is None or not cache.blob(digest).is_file():
            return None
        with exclusive(cache.lock(digest), progress, file):
            return self._present(cache, digest, commit, file, progress)

    def fetch(self, progress: Progress) -> Delivery:
        commit, file = self._revision, self._file
        if file is None:
            commit, files = self._client.files(self._repo, self._revision)
            file = choose_file(str(self), files, self._quant)
        remote = self._client.describe(self._repo, file, commit)
        if self._digest not in (None, remote.digest):
            raise InvalidEncoding(
                f"{remote} is not the file the catalog means: its digest is {remote.digest} instead of {self._digest}"
            )
        if self._size not in (None, remote.size):
            raise InvalidEncoding(
                f"{remote} is not the file the catalog means: it has {remote.size} bytes instead of {self._size}"
            )
        cache = HubCache(self._client.cache, self._repo)
        blob = cache.blob(remote.digest)
        with exclusive(cache.lock(remote.digest), progress, file):
            if present := self._present(cache, remote.digest, remote.commit, file, progress):
                return present
            with PartialFile(blob, remote.digest, remote.size, str(remote), progress) as partial:
                check_disk(blob.parent, remote.size - partial.held, str(remote))
                progress.start(f"pulling {file} from {self}", remote.size, partial.held, remote.digest)
                self._client.fetch(remote, partial)
                partial.finish()
            return self._linked(cache, remote.digest, remote.commit, file)

    def _present(self, cache: HubCache, digest: Digest, commit: str, file: str, progress: Progress) -> Delivery | None:
        """Return the cached file if it is what it is called; remove it if not."""
        blob = cache.blob(digest)
        if not blob.is_file():
            return None
        if hash_file(blob, progress, f"verifying {file}") != digest:
            progress.note(f"{blob} is damaged and was removed")
            blob.unlink()
            return None
        return self._linked(cache, digest, commit, file)

    def _linked(self, cache: HubCache, digest: Digest, commit: str, file: str) -> Delivery:
        path = cache.link(digest, commit, file, self._revision)
        return Delivery(path, digest, path.stat().st_size, f"{self}/{file}@{commit}")


def choose_file(repository: str, files: list[str], quant: str | None) -> str:
    """Return the GGUF file of `files` with quantisation `quant`; None means the usual one, or the first.

    Raises NotFound with what there is, UnsupportedOperation for models split over files, SecurityDenied for a name
    that leads elsewhere.
    """
    models = sorted(file for file in files if file.lower().endswith(".gguf") and not _NOT_A_MODEL.search(file))
    if not models:
        raise NotFound(f"{repository} has no GGUF model")
    matching = [file for file in models if _has_quant(file, quant or DEFAULT_QUANT)]
    if not matching and quant:
        raise NotFound(f"{repository} has no {quant} model; it has {', '.join(models[:12])}")
    candidates = matching or models
    whole = [file for file in candidates if not _SPLIT.search(file)]
    if not whole:
        raise UnsupportedOperation(
            f"{candidates[0]} of {repository} is split over several files, which promptd cannot pull yet"
        )
    chosen = min(whole, key=len) if matching else whole[0]
    try:
        return check_hub_file(chosen)
    except InvalidArgument as error:
        raise SecurityDenied(f"{repository} is refused: {error}") from error


def _has_quant(file: str, quant: str) -> bool:
    return re.search(rf"(?:^|[-_./]){re.escape(quant)}(?:[-./]|$)", file, re.IGNORECASE) is not None
