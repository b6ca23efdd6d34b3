"""The command: builds what is compared with, runs the rows, and says what came out."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from benchmarks import cache, decode, http, latency, report, scale, speculation
from benchmarks.report import Outcome
from benchmarks.rows import Bench, Row
from benchmarks.upstream import Upstream, build
from promptd.engine.loading import physical_cores
from promptd.graphs.store import Store

ROOT = Path(__file__).resolve().parent.parent.parent
ROW_LIMIT_S = 1200
ROWS = {row.name: row for module in (decode, cache, latency, speculation, scale, http) for row in module.ROWS}


def main(
    rows: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(ROWS)}. All, if none is named.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="One pair of each, smaller: about 3 minutes.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write everything that was measured to this file; rows in it from before stay.")
    ] = None,
    docs: Annotated[bool, typer.Option(help="Write the table into docs/bench.md.")] = False,
) -> None:
    """Compare promptd with llama.cpp's own programs: interleaved pairs on this machine, ratios against the targets."""
    unknown = sorted(set(rows or ()) - set(ROWS))
    if unknown:
        raise typer.BadParameter(f"there is no row {unknown[0]}; the rows are {', '.join(ROWS)}")
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, _give_up)
    # Both sides wait for threads as they do by default, whatever the caller's shell has set.
    for name in [name for name in os.environ if name.startswith(("OMP_", "GOMP_"))]:
        del os.environ[name]
    model, threads = Store().resolve("smollm2").path, physical_cores()
    programs = build()
    bench = Bench(model, Upstream(programs, model, threads), ROOT / "guests/bench/bench.wasm", quick, threads)
    usual = [row for row in ROWS.values() if not (row.on_request or (quick and row.slow))]
    chosen = [ROWS[name] for name in rows] if rows else usual
    outcomes = []
    before = report.read(json) if json else None
    for row in chosen:
        outcomes.append(_run(row, bench))
        result = report.as_json(outcomes, quick=quick, before=before)
        if json:
            report.save(json, result)
    report.show(outcomes)
    if docs:
        report.write_docs(ROOT / "docs/bench.md", result)
    if any(outcome.measured is None for outcome in outcomes):
        raise typer.Exit(1)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"it took longer than {ROW_LIMIT_S} s")


def _run(row: Row, bench: Bench) -> Outcome:
    began = time.monotonic()
    signal.alarm(ROW_LIMIT_S)
    try:
        outcome = Outcome(row, row.run(bench))
    except Exception as error:
        outcome = Outcome(row, None, f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)
    print(f"{row.name}: {outcome.cells[5]} in {time.monotonic() - began:.0f} s {outcome.error}", file=sys.stderr)
    return outcome


if __name__ == "__main__":
    typer.run(main)
