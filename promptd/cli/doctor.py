"""`promptd doctor`: what is built in, what is granted, and what is slow or broken, with what to do about it."""

from __future__ import annotations

import dataclasses
from itertools import groupby

import typer

from promptd.cli.control import DEFAULT_PORT, AsJson, Port
from promptd.cli.options import Config, Offline
from promptd.cli.output import console, neutralise, print_json


def doctor(config: Config = None, port: Port = DEFAULT_PORT, offline: Offline = False, as_json: AsJson = False) -> None:
    """Say what is built in, what is granted, what is slow and why. The exit code is 1 when something is broken."""
    from promptd.cli.examination import look_at_all

    findings = look_at_all(config, port, offline=offline)
    problems = 0
    if as_json:
        found = list(findings)
        problems = sum(finding.state == "problem" for finding in found)
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        from rich.text import Text

        out = console()
        for part, group in groupby(findings, key=lambda finding: finding.part):
            out.print(Text(part, style="bold"))
            for finding in group:
                problems += finding.state == "problem"
                colour = {"ok": "green", "note": "yellow", "problem": "red"}[finding.state]
                line = Text.assemble(
                    (f"  {finding.state:<8}", colour), f"{neutralise(finding.name):<20} {neutralise(finding.value)}"
                )
                out.print(line)
                if finding.advice:
                    out.print(Text(f"{'':>31}{neutralise(finding.advice)}", style="dim"))
    if problems:
        raise typer.Exit(1)
