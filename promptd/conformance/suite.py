"""The suite as its manifest describes it: guests, their checks, and by what right each check is made."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from promptd.errors import InvalidArgument
from promptd.shipped import shipped

MANIFEST = "guests/conformance/manifest.toml"
UNSPECIFIED = "unspecified"
"""How the source of a rule starts that no text demands."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, which guests check; `source` cites the text that demands it."""

    name: str
    rule: str
    source: str
    elsewhere: str | None = None
    """What other hosts are known to do instead."""
    traps: bool = False
    """Whether the rule is that the host ends the guest."""

    @property
    def is_choice(self) -> bool:
        """Whether the rule is promptd's own, so that another host can differ and not fail."""
        return self.source.startswith(UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class SuiteGuest:
    """One WebAssembly file and what it checks, in its own order but for the traps, which come last."""

    name: str
    file: Path
    column: str
    """The heading under which tables show it; guests of one version share one."""
    abi: str
    kind: Literal["component", "core"]
    checks: tuple[Check, ...]
    whole: bool = True
    """Whether `checks` are all that the file has."""


def load_suite(manifest: Path | None = None) -> list[SuiteGuest]:
    """Return the guests of a manifest, by default of the suite that comes with promptd."""
    manifest = manifest or shipped(MANIFEST)
    table = tomllib.loads(manifest.read_text(encoding="utf-8"))
    checks = [Check(name, **fields) for name, fields in table["checks"].items()]
    return [
        SuiteGuest(
            guest["name"],
            manifest.parent / guest["file"],
            guest["column"],
            guest["abi"],
            guest["kind"],
            tuple(sorted(_checks_of(guest["groups"], guest.get("without", ()), checks), key=lambda check: check.traps)),
        )
        for guest in table["guest"]
    ]


def _checks_of(groups: Sequence[str], without: Sequence[str], checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.name.partition("/")[0] in groups and check.name not in without]


def select(suite: Sequence[SuiteGuest], names: Sequence[str]) -> list[SuiteGuest]:
    """Return the part of the suite that `names` name: guests (`core`), checks (`echo/empty`), or both (`core:echo/*`).

    No names are all. Raises InvalidArgument for a name of nothing.
    """
    if not names:
        return list(suite)
    for name in names:
        if not any(_is_named(guest, check, [name]) for guest in suite for check in guest.checks):
            raise InvalidArgument(
                f"{name!r} names no guest and no check of the suite; guests are {_guest_names(suite)}"
            )
    chosen = []
    for guest in suite:
        checks = tuple(check for check in guest.checks if _is_named(guest, check, names))
        if checks:
            chosen.append(replace(guest, checks=checks, whole=len(checks) == len(guest.checks)))
    return chosen


def _is_named(guest: SuiteGuest, check: Check, patterns: Sequence[str]) -> bool:
    names = (guest.name, check.name, f"{guest.name}:{check.name}")
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _guest_names(suite: Sequence[SuiteGuest]) -> str:
    return ", ".join(guest.name for guest in suite)
