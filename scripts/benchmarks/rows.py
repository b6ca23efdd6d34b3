"""What a row of the bench is: what is compared, against what, and the ratio that is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks.upstream import Upstream


@dataclass(frozen=True)
class Bench:
    """What every row measures with."""

    model: Path
    upstream: Upstream
    guest: Path
    """The component that scripts/build-guests makes of guests/bench."""
    quick: bool
    threads: int

    @property
    def pairs(self) -> int:
        """How often each comparison is repeated."""
        return 1 if self.quick else 3


@dataclass(frozen=True)
class Measured:
    """The pairs of one comparison, in the order in which they ran."""

    ours: list[float]
    theirs: list[float]
    unit: str
    counters: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))


@dataclass(frozen=True)
class Row:
    """One line of the table. `run` makes all its pairs."""

    name: str
    what: str
    against: str
    target: float
    better: Literal["higher", "lower"]
    run: Callable[[Bench], Measured]
    slow: bool = False
    """Left out of --quick, unless asked for by name."""
    on_request: bool = False
    """Only run when asked for by name: it alone takes as long as all others."""

    def met(self, ratio: float) -> bool:
        """Whether the ratio is as good as was aimed at."""
        return ratio >= self.target if self.better == "higher" else ratio <= self.target

    @property
    def aim(self) -> str:
        """The target as it stands in the table."""
        return f"{'≥' if self.better == 'higher' else '≤'} {self.target:g}"
