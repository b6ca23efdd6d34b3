"""How results are told: a table of checks against versions, JUnit XML for machines that know tests, and JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from promptd.conformance.runner import Result, Verdict

CELLS = {
    Verdict.PASSED: "ok",
    Verdict.DIFFERS: "differs",
    Verdict.UNSUPPORTED: "-",
    Verdict.NOT_RUN: "not run",
    Verdict.FAILED: "FAILED",
}
"""How a table spells a verdict, from the best to the worst."""

_RANKS = list(CELLS)

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold: https://www.w3.org/TR/xml/#charsets"""


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: a row for each check, a column for each version, in the order of the suite.

    A cell shows the worst of a version's guests that make the check, and is empty where none does.
    """
    columns = list(dict.fromkeys(result.guest.column for result in results))
    worst: dict[tuple[str, str], Verdict] = {}
    for result in results:
        cell = (result.check.name, result.guest.column)
        worst[cell] = max(worst.get(cell, Verdict.PASSED), result.verdict, key=_RANKS.index)
    rows = [
        [check, *(CELLS[worst[check, column]] if (check, column) in worst else "" for column in columns)]
        for check in dict.fromkeys(result.check.name for result in results)
    ]
    return ["check", *columns], rows


def summary(results: Sequence[Result]) -> str:
    """Return how many checks there are of each verdict, as one sentence."""
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])


def reasons(results: Sequence[Result]) -> list[str]:
    """Return what there is to say about the checks that did not pass, in lines.

    Where a guest is unsupported, or ended, one line stands for all its checks.
    """
    lines = []
    for _, group in groupby(results, key=lambda result: (result.guest.name, result.verdict, _shared_reason(result))):
        same = list(group)
        first = same[0]
        if first.verdict is Verdict.PASSED:
            continue
        what = f"{len(same)} checks" if len(same) > 1 else first.check.name
        lines.append(f"{first.guest.name}: {what} {first.verdict.value}: {first.why}")
        if first.verdict in (Verdict.FAILED, Verdict.DIFFERS):
            lines.append(f"    {first.check.rule} ({first.check.source})")
    return lines


def _shared_reason(result: Result) -> str:
    """Return what makes neighbours one line: the reason of a whole guest, or the check itself."""
    return result.why if result.verdict in (Verdict.UNSUPPORTED, Verdict.NOT_RUN) else result.check.name


def as_json(host: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return all results as plain values."""
    counts = Counter(result.verdict for result in results)
    return {
        "host": host,
        "summary": {verdict.value: counts[verdict] for verdict in Verdict},
        "results": [
            {
                "guest": result.guest.name,
                "abi": result.guest.abi,
                "check": result.check.name,
                "verdict": result.verdict.value,
                "why": result.why,
                "rule": result.check.rule,
                "source": result.check.source,
            }
            for result in results
        ],
    }


def write_junit(file: Path, host: str, results: Sequence[Result]) -> None:
    """Write JUnit XML: a suite for each guest; what is no fault of the host counts as skipped."""
    root = ElementTree.Element("testsuites", name=_xml(f"wasi-nn conformance of {host}"))
    for name, group in groupby(results, key=lambda result: result.guest.name):
        same = list(group)
        failed = sum(result.verdict is Verdict.FAILED for result in same)
        skipped = sum(result.verdict not in (Verdict.FAILED, Verdict.PASSED) for result in same)
        counts: dict[str, str] = {
            "tests": str(len(same)),
            "failures": str(failed),
            "errors": "0",
            "skipped": str(skipped),
        }
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts})
        for result in same:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=result.check.name)
            if result.verdict is Verdict.FAILED:
                failure = ElementTree.SubElement(case, "failure", message=_xml(result.why))
                failure.text = _xml(f"{result.check.rule} ({result.check.source})")
            elif result.verdict is not Verdict.PASSED:
                ElementTree.SubElement(case, "skipped", message=_xml(f"{result.verdict.value}: {result.why}"))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def _xml(text: str) -> str:
    return _NOT_XML.sub("�", text)
