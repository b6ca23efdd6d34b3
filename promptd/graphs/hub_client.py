"""Fences huggingface_hub: asks the hub about files and fetches their bytes. Nothing else in promptd imports it, and
it is imported on first use.

Checked against huggingface_hub 2.4.0, whose `hf_hub_download` neither hashes what it downloads (huggingface_hub#2364)
nor continues partial files. promptd therefore hands its `http_get` a file that does both, and guards every request it
makes: the token goes to the endpoint only, connecting takes seconds, nothing waits out a rate limit, and a download
that gets nowhere ends.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from promptd.errors import InvalidArgument, InvalidEncoding, RuntimeFailure, SecurityDenied
from promptd.graphs.blob import PartialFile, disk_error
from promptd.graphs.digest import Digest
from promptd.graphs.hub_errors import GaveUp, explained
from promptd.graphs.reference import is_commit

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 4.0
METADATA_TIMEOUT_S = 6.0
"""For an answer without a body, unless HF_HUB_ETAG_TIMEOUT says otherwise."""
IDLE_ATTEMPTS = 2
"""How often a download is tried without a single new byte."""
CHUNK = 256 * 1024
"""Bytes between two writes: what an interrupted download loses at most. The library's own 10 MiB are a long time on a
slow line.
"""

Origin = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub, as its headers describe it."""

    repo: str
    file: str
    commit: str
    digest: Digest
    size: int
    url: str

    def __str__(self) -> str:
        return f"{self.file} of hf.co/{self.repo}"


class HubClient:
    """A Hugging Face hub; None takes what huggingface_hub takes from HF_ENDPOINT, HF_TOKEN (or the login) and
    HF_HUB_CACHE or HF_HOME.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None, cache: Path | None = None) -> None:
        self._endpoint = endpoint
        self._token = token
        self._cache = cache

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return self._endpoint or str(_library().constants.ENDPOINT)

    @property
    def cache(self) -> Path:
        """The root of the shared cache."""
        return self._cache or Path(_library().constants.HF_HUB_CACHE)

    def files(self, repo: str, revision: str) -> tuple[str, list[str]]:
        """Return the commit that `revision` is, and the paths of all files in it."""
        with self._talking(f"hf.co/{repo}"):
            from huggingface_hub import HfApi

            info = HfApi(endpoint=self.endpoint, token=self._token).model_info(
                repo, revision=revision, timeout=_metadata_timeout()
            )
            return self._commit(info.sha, repo), [sibling.rfilename for sibling in info.siblings or ()]

    def describe(self, repo: str, file: str, revision: str) -> RemoteFile:
        """Return what the hub says of a file, without fetching it."""
        with self._talking(f"{file} of hf.co/{repo}"):
            from huggingface_hub import get_hf_file_metadata, hf_hub_url

            url = hf_hub_url(repo, file, revision=revision, endpoint=self.endpoint)
            found = get_hf_file_metadata(url, token=self._token, timeout=_metadata_timeout(), endpoint=self.endpoint)
            commit = self._commit(found.commit_hash, repo)
            # A file in xet storage is served over plain HTTP from its own address; the location is for xet clients.
            address = url if found.xet_file_data is not None else found.location
        try:
            digest = Digest(found.etag or "")
        except InvalidArgument as error:
            raise RuntimeFailure(
                f"{self.endpoint} states no SHA-256 of {file} of hf.co/{repo}, so it cannot be checked"
            ) from error
        if not found.size:
            raise RuntimeFailure(f"{self.endpoint} does not say how large {file} of hf.co/{repo} is")
        return RemoteFile(repo, file, commit, digest, found.size, address)

    def fetch(self, remote: RemoteFile, into: PartialFile) -> None:
        """Append the bytes of `remote` that `into` does not hold yet. What was received stays there, whatever is
        raised.
        """
        with self._talking(str(remote), url=remote.url, into=into):
            from huggingface_hub.file_download import http_get
            from huggingface_hub.utils import build_hf_headers

            http_get(
                remote.url,
                cast(BinaryIO, into),
                resume_size=into.held,
                headers=build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"},
                expected_size=remote.size,
                displayed_filename=remote.file,
                tqdm_class=_no_bar(),
            )

    def _commit(self, commit: str | None, repo: str) -> str:
        if commit is None or not is_commit(commit):
            raise RuntimeFailure(
                f"{self.endpoint} does not answer like a Hugging Face hub: it states no commit of hf.co/{repo}"
            )
        return commit

    @contextmanager
    def _talking(self, subject: str, url: str | None = None, into: PartialFile | None = None) -> Iterator[None]:
        """Guard the requests made inside, and turn what goes wrong with them into one sentence about `subject`."""
        _library()
        active = _GUARD.set(_Guard(_origin_of(self.endpoint), url, into))
        try:
            yield
        except Exception as error:
            raise explained(error, subject, self.endpoint) from error
        finally:
            _GUARD.reset(active)


def delete_cached(pointer: Path) -> int:
    """Remove a snapshot's file from the cache it lies in, and its blob when no other snapshot has it; return the bytes
    freed.
    """
    library = _library()
    snapshot = next((parent for parent in pointer.parents if parent.parent.name == "snapshots"), None)
    if snapshot is None:
        raise InvalidEncoding(f"{pointer} is not inside a Hugging Face cache, so it was not removed")
    place = pointer.parent.resolve() / pointer.name
    found = library.scan_cache_dir(snapshot.parents[2])
    revisions = [revision for repo in found.repos for revision in repo.revisions]
    strategy = found.delete_files(
        *(file for revision in revisions for file in revision.files if file.file_path == place)
    )
    strategy.execute()
    try:
        # A link whose blob is gone is in no scan.
        pointer.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, pointer) from error
    return int(strategy.expected_freed_size)


@dataclass(slots=True)
class _Guard:
    """What the requests of one call may do."""

    origin: Origin
    url: str | None
    into: PartialFile | None
    attempts: int = field(default=0, init=False)
    held: int = field(default=-1, init=False)

    def check(self, request: httpx2.Request) -> None:
        """Called before each request, those that follow a redirect included."""
        origin = _origin_of(str(request.url))
        if origin != self.origin:
            request.headers.pop("authorization", None)
            if self.origin[0] == "https" and origin[0] != "https":
                raise SecurityDenied(f"the hub redirects to {request.url.host} without encryption")
        request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "connect": CONNECT_TIMEOUT_S}
        if self.into is not None and str(request.url) == self.url:
            self.attempts = self.attempts + 1 if self.into.held == self.held else 1
            self.held = self.into.held
            if self.attempts > IDLE_ATTEMPTS:
                raise GaveUp


_GUARD: ContextVar[_Guard | None] = ContextVar("_GUARD", default=None)
_INSTALLING = threading.Lock()
_installed = False


def _library() -> Any:
    """Import huggingface_hub, once, and make its HTTP client ours."""
    global _installed
    import huggingface_hub
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import logging
    from huggingface_hub.utils._http import default_client_factory, hf_raise_for_status

    with _INSTALLING:
        if _installed:
            return huggingface_hub

        def before(request: httpx2.Request) -> None:
            if guard := _GUARD.get():
                guard.check(request)

        def after(response: httpx2.Response) -> None:
            # http_get would sleep as long as Retry-After says, five times over.
            if _GUARD.get() and response.status_code in (408, 429):
                hf_raise_for_status(response)

        def client() -> Any:
            made = default_client_factory()
            hooks = made.event_hooks
            made.event_hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}
            return made

        set_client_factory(client)
        constants.DOWNLOAD_CHUNK_SIZE = CHUNK
        # Otherwise the first request also asks the hub which coding agents exist, to mention one in the User-Agent.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        if "HF_HUB_VERBOSITY" not in os.environ:
            logging.set_verbosity_error()
        _installed = True
    return huggingface_hub


def _metadata_timeout() -> float:
    constants = _library().constants
    stated = constants.HF_HUB_ETAG_TIMEOUT
    return METADATA_TIMEOUT_S if stated == constants.DEFAULT_ETAG_TIMEOUT else float(stated)


def _origin_of(url: str) -> Origin:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _no_bar() -> Any:
    """Return a tqdm that draws nothing: promptd draws its own progress, from the bytes written."""
    from huggingface_hub.utils import tqdm

    return functools.partial(tqdm, disable=True)
