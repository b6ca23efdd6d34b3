"""What all tables of settings have in common: how their keys are written, and what may be a name."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}$"
"""What a graph or guest may be called: it stands in URLs, logs and file names."""
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def as_pairs(table: Any) -> Any:
    """Return a table (on the command line it is JSON) as pairs, so that settings with it can be told apart by hash."""
    if isinstance(table, str):
        with contextlib.suppress(ValueError, RecursionError):
            table = json.loads(table)
    return tuple(table.items()) if isinstance(table, dict) else table


def kebab(name: str) -> str:
    """Return the key of a setting, as TOML files and the command line have it."""
    return name.replace("_", "-")


class Table(BaseModel):
    """A table of settings: it takes no keys it does not know, and does not change.

    The modules that define one do without `from __future__ import annotations`: pydantic would evaluate each field's
    annotation from its text, which takes 2 ms of the start of every command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=kebab, populate_by_name=True)
