"""The catalog: models that have a short name, with what they are and where their bytes come from (models/catalog.toml).

An entry lists one file and several sources that can deliver it. An entry with a digest is pinned by it; one without
is trusted on first use: the digest is then the one the hub states, and the store's manifest pins it.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from promptd.errors import InvalidEncoding, NotFound, PromptdError
from promptd.graphs.digest import Digest
from promptd.graphs.reference import CatalogReference, HubReference, check_hub_file, parse_reference
from promptd.shipped import shipped
from promptd.suggestions import did_you_mean


def _checked_file(text: str) -> str:
    try:
        return check_hub_file(text)
    except PromptdError as error:
        raise ValueError(str(error)) from error


def _checked_digest(text: object) -> Digest:
    try:
        return text if isinstance(text, Digest) else Digest.parse(str(text))
    except PromptdError as error:
        raise ValueError(str(error)) from error


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        defer_build=True,  # many a command never looks into the catalog
    )


class HubLocation(_Table):
    """A file of a Hugging Face repository."""

    hub: str
    revision: str | None = None
    file: Annotated[str, BeforeValidator(_checked_file)] | None = None
    """Path inside the repository, when it differs from the entry's `file`."""

    @model_validator(mode="after")
    def _is_a_reference(self) -> HubLocation:
        try:
            reference = parse_reference(f"hf.co/{self.hub}" + (f"@{self.revision}" if self.revision else ""))
        except PromptdError as error:
            raise ValueError(str(error)) from error
        if reference != HubReference(self.hub, revision=self.revision):
            raise ValueError(f"{self.hub!r} is not USER/REPO")
        return self


class PackageLocation(_Table):
    """A file inside the wheel of a Python package."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+!-]{0,39}$")]
    member: Annotated[str, Field(min_length=1, max_length=400)]
    wheel_size: Annotated[int, Field(gt=0)] | None = None
    """Bytes of the wheel, which pip has to fetch whole."""


class CatalogEntry(_Table):
    """One model of the catalog."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
    tag: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
    description: str
    licence: str
    file: Annotated[str, BeforeValidator(_checked_file)]
    size: Annotated[int, Field(gt=0)] | None = None
    sha256: Annotated[Digest, BeforeValidator(_checked_digest)] | None = None
    source: Annotated[tuple[HubLocation | PackageLocation, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _packages_need_a_digest(self) -> CatalogEntry:
        if any(isinstance(source, PackageLocation) for source in self.source) and not (self.sha256 and self.size):
            raise ValueError("a package says no digest of its member, so the entry needs sha256 and size")
        return self


class Catalog:
    """All entries, by name and tag. The first entry of a name is its default; the first of all is the default model."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        self._entries: dict[str, dict[str, CatalogEntry]] = {}
        for entry in entries:
            tags = self._entries.setdefault(entry.name, {})
            if entry.tag in tags:
                raise InvalidEncoding(f"the catalog has {entry.name}:{entry.tag} twice")
            tags[entry.tag] = entry
        if not self._entries:
            raise InvalidEncoding("the catalog is empty")

    @classmethod
    def load(cls, path: Path) -> Catalog:
        """Return the catalog in a TOML file; raises InvalidEncoding with a sentence that names file and cause."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("model", [])
            return cls([CatalogEntry.model_validate(table) for table in tables])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidEncoding(f"the catalog {path} is damaged: {where}: {first['msg']}") from error
        except (OSError, ValueError) as error:
            raise InvalidEncoding(f"the catalog {path} cannot be read: {error}") from error

    @property
    def default(self) -> CatalogReference:
        """The model promptd uses when nobody names one."""
        return CatalogReference(next(iter(self._entries)))

    def find(self, reference: CatalogReference) -> CatalogEntry:
        """Return the entry that `reference` names; raises NotFound."""
        tags = self._entries.get(reference.name)
        if tags is None:
            known = ", ".join(self._entries)
            hint = did_you_mean(reference.name, self._entries)
            raise NotFound(
                f"the catalog has no model {reference.name!r}{hint or f'; it has {known}'}"
                " (hf.co/USER/REPO and file:PATH name others)"
            )
        entry = tags.get(reference.tag) if reference.tag else next(iter(tags.values()))
        if entry is None:
            raise NotFound(f"{reference.name} has no tag {reference.tag!r}; it has {', '.join(tags)}")
        return entry

    def reference(self, entry: CatalogEntry) -> CatalogReference:
        """Return the shortest reference of `entry`, the one it is stored under."""
        is_default = next(iter(self._entries[entry.name].values())) == entry
        return CatalogReference(entry.name, None if is_default else entry.tag)

    def entries(self) -> list[CatalogEntry]:
        """Return all entries, in the catalog's order."""
        return [entry for tags in self._entries.values() for entry in tags.values()]


@functools.cache
def shipped_catalog() -> Catalog:
    """Return the catalog that comes with promptd."""
    return Catalog.load(shipped("models/catalog.toml"))
