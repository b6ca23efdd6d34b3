"""What a guest may use. Nothing is granted by default: no graph, no file, no environment variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from promptd.config import DirectoryGrant, GuestLimits, GuestSettings
from promptd.errors import InvalidArgument


@dataclass(frozen=True)
class Grant:
    """What one guest may use, and how much of it; `args` come after the guest's own name."""

    graphs: frozenset[str] = frozenset()
    limits: GuestLimits = field(default_factory=GuestLimits)
    env: Mapping[str, str] = field(default_factory=dict)
    dirs: tuple[DirectoryGrant, ...] = ()
    args: tuple[str, ...] = ()
    wasmedge: bool = False
    """Answer a core module as WasmEdge does, whatever it imports."""

    @classmethod
    def of(cls, settings: GuestSettings) -> Grant:
        """Return what `[guests.NAME]` of promptd.toml grants."""
        limits = GuestLimits.model_validate({name: getattr(settings, name) for name in GuestLimits.model_fields})
        return cls(
            frozenset(settings.graphs), limits, dict(settings.env), settings.dirs, settings.args, settings.wasmedge
        )


def directory_grant(text: str) -> DirectoryGrant:
    """Return the directory grant typed as `HOST::GUEST[::ro]`; raises InvalidArgument.

    `GUEST:HOST[:readonly]` and a lone `PATH` are taken as well, as WasmEdge's users type them.
    """
    if text and "::" not in text:
        return _wasmedge_grant(text)
    host, *rest = text.split("::")
    if not host or not rest or not rest[0] or rest[1:] not in ([], ["ro"]):
        raise InvalidArgument(
            f"{text!r} is not a directory grant; write HOST::GUEST, or HOST::GUEST::ro for reading only"
        )
    return DirectoryGrant(host=Path(host), guest=rest[0], writable=rest[1:] != ["ro"])


def _wasmedge_grant(text: str) -> DirectoryGrant:
    guest, _, host = text.removesuffix(":readonly").partition(":")
    return DirectoryGrant(host=Path(host or guest), guest=guest, writable=not text.endswith(":readonly"))
