"""Runs guests of the suite on a host, and judges every check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from promptd.conformance.hosts import ConformanceHost, Run
from promptd.conformance.suite import Check, SuiteGuest
from promptd.conformance.tap import Report, parse


class Verdict(Enum):
    """What became of a check; values are as reports spell them."""

    PASSED = "passed"
    FAILED = "failed"
    DIFFERS = "differs"
    """Another host chose otherwise where nothing is specified."""
    UNSUPPORTED = "unsupported"
    """The host cannot load or link the guest."""
    NOT_RUN = "not run"
    """The guest ended before it came to this check."""


@dataclass(frozen=True, slots=True)
class Result:
    """One check of one guest on one host; `why` is empty for one that passed."""

    guest: SuiteGuest
    check: Check
    verdict: Verdict
    why: str = ""


def run_guest(host: ConformanceHost, guest: SuiteGuest, *, isolate: bool = False) -> Iterator[Result]:
    """Yield one result for each check of `guest`, in their order.

    The checks share one instance, but for those that end it; with `isolate` each has its own.
    """
    together = [check for check in guest.checks if not check.traps and not isolate]
    runs = [together] if together else []
    runs += [[check] for check in guest.checks if check not in together]
    unsupported: str | None = None
    for checks in runs:
        if unsupported is None:
            # A guest that is given no names runs all its checks but the traps.
            names = [] if checks is together and guest.whole else [check.name for check in checks]
            run = host.run(guest.file, names)
            report = parse(run.output)
            if not report.started and not report.bailed and run.exit_code is not None and run.exit_code > 0:
                unsupported = run.why or f"the host ended with exit code {run.exit_code}"
        for check, verdict, why in (
            _judge(host, checks, report, run)
            if unsupported is None
            else [(check, Verdict.UNSUPPORTED, unsupported) for check in checks]
        ):
            yield Result(guest, check, verdict, why)


def _judge(
    host: ConformanceHost, checks: Sequence[Check], report: Report, run: Run
) -> Iterator[tuple[Check, Verdict, str]]:
    ended = report.bailed or ""
    for check in checks:
        if check.name in report.results:
            fault = report.results[check.name]
            if check is checks[-1] and run.exit_code != 0 and not any(report.results.values()):
                fault = f"the guest had said its last, but {_end_of(run)}"
        elif ended:
            yield check, Verdict.NOT_RUN, ended
            continue
        else:
            fault = _fault_of_end(check, report, run)
            ended = "the guest had ended"
        if fault is None:
            yield check, Verdict.PASSED, ""
        elif check.is_choice and not host.is_promptd:
            yield check, Verdict.DIFFERS, fault
        else:
            yield check, Verdict.FAILED, fault


def _fault_of_end(check: Check, report: Report, run: Run) -> str | None:
    """Return what is wrong when the guest ended in this check, or before it; None where that is right."""
    if not report.started:
        return f"the guest said nothing that is TAP, and {_end_of(run)}"
    if check.traps and report.running == check.name and run.exit_code is not None and run.exit_code > 0:
        return None
    return _end_of(run)


def _end_of(run: Run) -> str:
    why = f": {run.why}" if run.why else ""
    if run.exit_code is None:
        return f"the time was over{why}"
    if run.exit_code < 0:
        return f"signal {-run.exit_code} ended the host{why}"
    if run.exit_code == 0:
        return "the host says that all went well"
    return f"the guest was ended with exit code {run.exit_code}{why}"
