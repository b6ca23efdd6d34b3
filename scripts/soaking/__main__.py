"""The command: soaks a daemon, and says what was lost and what has grown."""

from __future__ import annotations

import asyncio
import json as json_
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from soaking.daemon import daemon
from soaking.shifts import Found, Plan, soak


def main(
    minutes: Annotated[int, typer.Option(min=1, help="How long; growth is judged from 12 on.")] = 30,
    json: Annotated[Path | None, typer.Option(help="Write everything that was seen to this file.")] = None,
) -> None:
    """Load a daemon with clients of every kind, and kill its workers: nothing may be lost, and nothing may grow.

    Exits with 1 when a conversation is lost, an answer is wrong, something is not given back, or memory, threads or
    descriptors grow over the second half of the time.
    """
    with daemon() as running:
        found = asyncio.run(soak(running, Plan(shifts=minutes)))
    if json:
        json.write_text(json_.dumps(_as_json(found, minutes), indent=1) + "\n")
    for what, number in sorted(found.counts.items()):
        print(f"{what:<36} {number:>9}")
    for trend in found.trends:
        print(f"{trend.name:<36} {trend.level:>9.0f}, grew by {trend.growth:+.1f} (at most {trend.limit:.0f})")
    if not found.trends:
        print("too short to see whether anything grows")
    good = "nothing was lost, and nothing grew" if found.trends else "nothing was lost"
    print("\n".join(found.problems) or good)
    raise typer.Exit(1 if found.problems else 0)


def _as_json(found: Found, minutes: int) -> dict[str, Any]:
    return {
        "minutes": minutes,
        "problems": found.problems,
        "counts": dict(found.counts),
        "trends": [{**asdict(trend), "flat": trend.flat} for trend in found.trends],
        "moments": [asdict(moment) for moment in found.moments],
    }


typer.run(main)
