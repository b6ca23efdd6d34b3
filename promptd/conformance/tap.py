"""What a guest of the suite said: its lines in TAP (https://testanything.org), as far as it came."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PLAN = re.compile(r"1\.\.\d+$")
_RESULT = re.compile(r"(?P<bad>not )?ok (?P<name>[a-z0-9/-]+)(?:: (?P<why>.*))?$")
_RUNNING = "# running "
_BAIL_OUT = "Bail out! "


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of one run of a guest. Lines that are no TAP are a host's own and mean nothing."""

    started: bool
    """Whether the guest got as far as its plan."""
    results: Mapping[str, str | None]
    """By check: None for one that holds, else why it does not."""
    running: str | None
    """The check that had begun and has no result."""
    bailed: str | None
    """Why the guest gave up."""


def parse(text: str) -> Report:
    """Return what the standard output of a guest says."""
    started = False
    results: dict[str, str | None] = {}
    running = bailed = None
    for line in text.splitlines():
        if _PLAN.match(line):
            started = True
        elif line.startswith(_RUNNING):
            running = line.removeprefix(_RUNNING)
        elif line.startswith(_BAIL_OUT):
            bailed = line.removeprefix(_BAIL_OUT)
        elif match := _RESULT.match(line):
            results[match["name"]] = (match["why"] or "it says not why") if match["bad"] else None
            running = None
    return Report(started, results, running, bailed)
