"""The store's manifests: one small JSON file for each pulled reference, which pins the digest of its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from promptd.errors import InvalidEncoding, PromptdError
from promptd.graphs.blob import disk_error
from promptd.graphs.digest import Digest
from promptd.graphs.hub_cache import write_atomically

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model file on this machine."""

    reference: str
    path: Path
    digest: Digest | None
    """None for a file of the operator's, which nothing pins."""
    size: int
    quantisation: str | None
    origin: str
    """Where the bytes came from, with commit or version."""
    modified: datetime
    """When it was pulled, or for a file of the operator's last written."""

    @property
    def present(self) -> bool:
        """Whether the file is there, with the size it should have."""
        try:
            return self.path.is_file() and self.path.stat().st_size == self.size
        except OSError:
            return False


class Manifests:
    """The manifests in one folder; a file's name is the hash of its reference, so that no reference can lead out of
    the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, reference: str) -> StoredModel | None:
        """Return what is stored as `reference`; raises InvalidEncoding when the manifest is damaged."""
        path = self._path(reference)
        return _parsed(path) if path.is_file() else None

    def write(self, model: StoredModel) -> None:
        """Store `model`, replacing what its reference meant before."""
        path = self._path(model.reference)
        table = {
            "schema": SCHEMA,
            "reference": model.reference,
            "path": str(model.path),
            "digest": str(model.digest),
            "size": model.size,
            "quantisation": model.quantisation,
            "origin": model.origin,
            "pulled": model.modified.isoformat(timespec="seconds"),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(table, indent=2) + "\n")
        except OSError as error:
            raise disk_error(error, path) from error

    def remove(self, reference: str) -> None:
        """Forget `reference`."""
        path = self._path(reference)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error

    def __iter__(self) -> Iterator[StoredModel]:
        """Yield all that is stored, by reference."""
        models = [_parsed(path) for path in self._folder.glob("*.json")]
        return iter(sorted(models, key=lambda model: model.reference))

    def _path(self, reference: str) -> Path:
        return self._folder / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"


def _parsed(path: Path) -> StoredModel:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if table["schema"] != SCHEMA:
            raise ValueError
        return StoredModel(
            reference=str(table["reference"]),
            path=Path(str(table["path"])),
            digest=Digest.parse(str(table["digest"])),
            size=int(table["size"]),
            quantisation=table["quantisation"] and str(table["quantisation"]),
            origin=str(table["origin"]),
            modified=datetime.fromisoformat(table["pulled"]).astimezone(UTC),
        )
    except OSError as error:
        raise disk_error(error, path) from error
    except (PromptdError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidEncoding(f"the manifest {path} is damaged; remove it and pull again") from error
