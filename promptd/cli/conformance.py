"""`promptd conformance`: what a host of wasi-nn, by default this one, makes of the conformance suite."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from promptd.cli.output import print_json, print_line, print_table, write
from promptd.errors import InvalidArgument

DEFAULT_TIMEOUT = "60s"

EXIT_FAILED = 1


def conformance(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Guests (core), checks ('echo/*') or both (core:echo/empty); all."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Another host, e.g. 'wasmtime run -S nn'; FILE and arguments are added."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate", help="Run every check in an instance of its own, for hosts that trap where others go on."
        ),
    ] = False,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Time limit of one run.")] = DEFAULT_TIMEOUT,
) -> None:
    """Run the wasi-nn conformance suite, on a graph named echo.

    A check that no text demands never fails another host: that host differs. The exit code is 0 when no check failed,
    1 when one did or none passed, 2 when the command line is wrong.
    """
    from promptd.config import parse_duration
    from promptd.conformance.hosts import Command, Promptd
    from promptd.conformance.report import as_json, reasons, summary, table, write_junit
    from promptd.conformance.runner import Result, Verdict, run_guest
    from promptd.conformance.suite import load_suite, select

    try:
        seconds = parse_duration(timeout)
        guests = select(load_suite(), names or [])
        chosen = Promptd(seconds) if host is None else Command(host, seconds)
        if junit is not None and not junit.parent.is_dir():
            raise InvalidArgument(f"--junit {junit}: there is no folder {junit.parent}")
    except (ValueError, InvalidArgument) as error:
        raise typer.BadParameter(str(error)) from error

    results: list[Result] = []
    with closing(chosen):
        for guest in guests:
            if sys.stderr.isatty():
                print_line(f"{guest.name}: {len(guest.checks)} checks", sys.stderr)
            results += run_guest(chosen, guest, isolate=isolate)

    if junit is not None:
        write_junit(junit, chosen.name, results)
    if as_json_:
        print_json(as_json(chosen.name, results))
    else:
        print_table(*table(results))
        print_line()
        for line in reasons(results):
            write(line + "\n")
        print_line(f"{chosen.name}: {summary(results)}")
    verdicts = {result.verdict for result in results}
    if Verdict.FAILED in verdicts or Verdict.PASSED not in verdicts:
        raise typer.Exit(EXIT_FAILED)
