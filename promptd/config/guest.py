"""A guest's settings: its file, what it is granted, and what it may use at most."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from promptd.config.table import NAME_PATTERN, Name, Table
from promptd.config.units import Duration, Size
from promptd.config.validation import validated
from promptd.errors import InvalidArgument

WASM_PAGE = 64 * 1024
"""Bytes: the least memory a guest can have."""


class GuestLimits(Table):
    """What one running guest may use at most."""

    memory: Size = 256 * 1024**2
    deadline: Duration | None = None
    """Wall-clock seconds a run, or one turn of a session, may take; None is no limit."""
    contexts: Annotated[int, Field(ge=0)] = 64
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Prompt and generated tokens together, over the life of the instance; None is no limit."""
    output: Size = 16 * 1024**2
    """Bytes of standard output and standard error together."""
    prompt: Size = 16 * 1024**2
    """Bytes of one prompt."""
    own_model: Size = 32 * 1024**2
    """Bytes of a model the guest brings itself, with `load`; 0 lets it bring none."""


class DirectoryGrant(Table):
    """A host directory a guest sees: `HOST::GUEST[::ro]`."""

    host: Path
    guest: str
    writable: bool = True


class GuestSettings(GuestLimits):
    """`[guests.NAME]`: a guest file, and what it is granted."""

    file: Path
    graphs: tuple[Name, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    dirs: tuple[DirectoryGrant, ...] = ()
    args: tuple[str, ...] = ()
    max_sessions: Annotated[int, Field(ge=1)] | None = None
    """Instances of it the daemon runs at once, for sessions and other requests together; None is the server's limit."""
    wasmedge: bool = False
    """Answer a core module as WasmEdge does, also one that imports none of WasmEdge's extensions; `--nn-preload` sets
    this."""


def guest_settings(name: str, file: Path, base: GuestSettings) -> GuestSettings:
    """Return `base` for a guest `name` in `file`; raises InvalidArgument when it cannot be called that."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidArgument(f"{name!r} cannot be a guest's name: letters, digits, '.', '_' and '-' only, at most 80")
    return base.model_copy(update={"file": file})


def guest_limits(**texts: str | None) -> dict[str, Any]:
    """Return the limits among `texts` (as typed on the command line) as values of `GuestLimits`; None is left out."""
    given = {key: text for key, text in texts.items() if text is not None}
    limits = validated(GuestLimits, given, "the command line")
    if limits.memory < WASM_PAGE:
        raise InvalidArgument(f"--memory {texts['memory']} is less than a page of 64KiB; write for example 256MiB")
    return {key: getattr(limits, key) for key in given}
